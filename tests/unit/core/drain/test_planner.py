"""Test the drain planner: which streams finish or are handed off, when and to whom; also when half a fleet drains."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from node_agent.contract.states import NodeState
from node_agent.core.drain.planner import (
    BACKLOG_S,
    LAST_MOMENTS_S,
    MARGIN_S,
    MAX_PEERS,
    DrainPlan,
    DrainPlanner,
    HandOff,
    Peer,
    ServedStream,
    reclaimed_pools,
)
from node_agent.core.node.status import IDLE, Load, NodeStatus, Pool

T0 = 1_000_000.0
OWN = Pool("a", "g5")
CALM = Load(4, 0, 0.2, 0.03, 1_000.0)


def status(name: str, zone: str = "b", state: NodeState = NodeState.READY) -> NodeStatus:
    return NodeStatus(name, f"{name}:8001", f"{name}:8000", state, Pool(zone, "g5"), "m", 1)


def peers(*names: str, zone: str = "b", load: Load = CALM, state: NodeState = NodeState.READY) -> list[Peer]:
    return [Peer(status(name, zone, state), load) for name in names]


def schedule(
    streams: list[ServedStream],
    among: list[Peer],
    left_s: float = 120.0,
    drain: DrainPlanner | None = None,
    drainers: int = 1,
) -> DrainPlan:
    going = reclaimed_pools([peer.status for peer in among], OWN)
    return (drain or DrainPlanner("me")).plan(streams, among, going, drainers, T0, T0 + left_s)


def long(key: int, context: int = 500, remaining: int | None = 100_000) -> ServedStream:
    return ServedStream(key, remaining, 0.03, context)


def test_streams_that_can_finish_stay_and_the_others_move_the_longest_first() -> None:
    planned = schedule([ServedStream(1, 100, 0.03), long(2), long(3, remaining=200_000)], peers("x", "y"))
    assert planned.finish == (1,)
    assert [hand_off.key for hand_off in planned.due] == [3, 2]
    assert planned.later == ()


def test_streams_move_outside_the_interrupted_pools_and_to_ready_nodes_first() -> None:
    among = [
        *peers("same", zone="a"),
        *peers("other"),
        *peers("risky", zone="c", state=NodeState.AT_RISK),
        *peers("its-neighbour", zone="c"),
    ]
    planned = schedule([long(number, context=10) for number in range(20)], among)
    assert {hand_off.target for hand_off in planned.due} == {"other"}
    planned = schedule([long(1)], [peer for peer in among if peer.status.instance_id != "other"])
    assert planned.due[0].target in ("same", "its-neighbour")  # a ready one in a going pool before one at risk
    assert schedule([long(1)], peers("risky", state=NodeState.AT_RISK)).due[0].target == "risky"


def test_no_peer_gets_more_prefill_at_a_time_than_its_bound() -> None:
    """Forty streams of 500 tokens at 1,000 tokens a second: half a second each, so four for each of two peers."""
    drain = DrainPlanner("me")
    streams = [long(number) for number in range(40)]
    planned = schedule(streams, peers("x", "y"), drain=drain)
    assert len(planned.due) == 8
    assert sorted(hand_off.target or "" for hand_off in planned.due) == ["x"] * 4 + ["y"] * 4
    times = [hand_off.at for hand_off in planned.later]
    assert times == sorted(times)
    assert max(times) - T0 < 40 * 0.5 / 2
    gone = {hand_off.key for hand_off in planned.due}
    rest = [stream for stream in streams if stream.key not in gone]
    again = drain.plan(rest, peers("x", "y"), {OWN}, 1, T0 + 0.5, T0 + 120)
    assert len(again.due) == 2  # half a second later there is room for one more each, whatever the loads are by then


def test_a_whole_drain_keeps_every_peer_s_queue_within_its_bound() -> None:
    drain, now = DrainPlanner("me"), T0
    streams = {number: long(number, context=100 + 37 * number % 1900) for number in range(150)}
    ends: dict[str, float] = {}
    while streams and now < T0 + 115:
        planned = drain.plan(streams.values(), peers("x", "y", "z"), {OWN}, 1, now, T0 + 120)
        for hand_off in planned.due:
            cost_s = streams.pop(hand_off.key).context_tokens / CALM.prefill_tokens_s
            name = hand_off.target or ""
            ends[name] = max(ends.get(name, 0.0), now) + cost_s
            assert ends[name] - now <= max(BACKLOG_S, cost_s) + 1e-6
        now += 0.5
    assert not streams


def test_a_peer_s_own_queue_counts_and_a_full_one_is_left_to_others() -> None:
    busy = Load(20, 6, 0.5, 0.03, 1_000.0)  # three seconds of prefill wait there
    planned = schedule([long(number) for number in range(4)], [*peers("busy", load=busy), *peers("calm")])
    assert {hand_off.target for hand_off in planned.due} == {"calm"}
    full = Load(20, 40, 0.5, 0.03, 1_000.0)
    assert schedule([long(1)], [*peers("full", load=full), *peers("calm")]).due[0].target == "calm"


def test_a_stream_too_long_for_the_bound_moves_to_a_node_with_an_empty_queue() -> None:
    drain = DrainPlanner("me")
    planned = schedule([long(1, context=30_000), long(2, context=30_000)], peers("x"), drain=drain)
    assert [hand_off.key for hand_off in planned.due] == [1]
    assert planned.later[0].at == T0 + 30.0


def test_without_peers_streams_wait_for_the_last_moment_or_the_first_peer() -> None:
    drain = DrainPlanner("me")
    planned = schedule([long(1), long(2)], [], drain=drain)
    assert planned.due == ()
    assert all(hand_off.target is None and hand_off.is_overflow for hand_off in planned.later)
    assert all(T0 + 120 - MARGIN_S - LAST_MOMENTS_S <= h.at <= T0 + 120 - MARGIN_S for h in planned.later)
    assert [hand_off.target for hand_off in schedule([long(1), long(2)], peers("new"), drain=drain).due] == [
        "new",
        "new",
    ]


def test_streams_without_a_place_in_time_are_spread_over_the_last_moments() -> None:
    streams = [long(number, context=4_000) for number in range(100)]  # 400 s of prefill for two peers
    planned = schedule(streams, peers("x", "y"), left_s=30.0)
    placed = [hand_off for hand_off in (*planned.due, *planned.later) if not hand_off.is_overflow]
    crowded = [hand_off for hand_off in planned.later if hand_off.is_overflow]
    assert len(placed) + len(crowded) == 100
    assert 5 <= len(placed) <= 14
    assert len({hand_off.at for hand_off in crowded}) == len(crowded)
    assert {hand_off.target for hand_off in crowded} == {"x", "y"}
    planned = DrainPlanner("me").plan(streams, peers("x"), {OWN}, 1, T0 + 25, T0 + 30)
    assert len(planned.due) == 100  # the last moment is now: all go


def test_a_shorter_deadline_is_planned_anew() -> None:
    stream = ServedStream(1, 1_000, 0.03, 500)  # 30 s
    assert schedule([stream], peers("x"), left_s=120).finish == (1,)
    assert [hand_off.key for hand_off in schedule([stream], peers("x"), left_s=20).due] == [1]


def test_nodes_that_drain_together_share_the_remaining_nodes() -> None:
    """Two hundred of four hundred drain: each chooses its own peers, and no peer is chosen by all."""
    staying = [Peer(status(f"s{number}"), CALM) for number in range(200)]
    given: dict[str, int] = {}
    for number in range(200):
        planned = DrainPlanner(f"d{number}").plan(
            [long(key, 200) for key in range(20)], staying, {OWN}, 200, T0, T0 + 120
        )
        for hand_off in (*planned.due, *planned.later):
            given[hand_off.target or ""] = given.get(hand_off.target or "", 0) + 1
    assert len(given) == 200
    assert max(given.values()) <= 2 * sum(given.values()) / 200


def longest_queue_s(drainers: int, staying: int, streams: int, sees_others: bool) -> float:
    """Return the longest prefill queue of any peer, in seconds, when so many nodes drain so many streams each at once.

    sees_others: whether the planners have the number of draining nodes.
    """
    among = [Peer(status(f"s{number}"), CALM) for number in range(staying)]
    drains = {f"d{number}": DrainPlanner(f"d{number}") for number in range(drainers)}
    left = {name: {key: long(key, 200 + 171 * key % 1_800) for key in range(streams)} for name in drains}
    ends: dict[str, float] = {}
    longest, now = 0.0, T0
    while now <= T0 + 115 and any(left.values()):
        for name, drain in drains.items():
            count = drainers if sees_others else 1
            for hand_off in drain.plan(left[name].values(), among, {OWN}, count, now, T0 + 120).due:
                to, cost_s = hand_off.target or "", left[name].pop(hand_off.key).context_tokens / CALM.prefill_tokens_s
                ends[to] = max(ends.get(to, 0.0), now) + cost_s
                longest = max(longest, ends[to] - now)
        now += 0.5
    assert not any(left.values())
    return longest


def test_nodes_that_drain_together_keep_the_bound_together() -> None:
    """As many drain as stay: a peer's queue stays near the bound; without shares it would be several times that."""
    assert longest_queue_s(50, 50, 10, sees_others=True) < 2.5 * BACKLOG_S
    assert longest_queue_s(50, 50, 10, sees_others=False) > 8 * BACKLOG_S


def test_one_node_among_a_thousand_looks_at_a_few_of_them() -> None:
    staying = [Peer(status(f"s{number}"), CALM) for number in range(1_000)]
    planned = DrainPlanner("me").plan([long(key, 100) for key in range(500)], staying, {OWN}, 1, T0, T0 + 120)
    assert len({hand_off.target for hand_off in planned.due}) == MAX_PEERS


def test_pools_at_risk_are_this_nodes_and_those_of_all_that_drain_or_are_at_risk() -> None:
    nodes = [
        status("a", "b"),
        status("b", "c", NodeState.AT_RISK),
        status("c", "d", NodeState.DRAINING),
        status("d", "e", NodeState.STARTING),
    ]
    assert reclaimed_pools(nodes, OWN) == {OWN, Pool("c", "g5"), Pool("d", "g5")}


STREAMS = st.lists(
    st.builds(
        ServedStream, st.integers(0, 99), st.none() | st.integers(0, 9_999), st.floats(0, 1), st.integers(0, 40_000)
    ),
    unique_by=lambda stream: stream.key,
    max_size=30,
)
PEERS = st.lists(
    st.builds(
        lambda name, zone, state, running, waiting: Peer(
            status(name, zone, state), Load(running, waiting, 0.5, 0.03, 500.0)
        ),
        st.text("xyz", min_size=1, max_size=3),
        st.sampled_from("abc"),
        st.sampled_from([NodeState.READY, NodeState.AT_RISK]),
        st.integers(0, 60),
        st.integers(0, 20),
    ),
    unique_by=lambda peer: peer.status.instance_id,
    max_size=6,
)


@given(STREAMS, PEERS, st.floats(-10, 200), st.integers(1, 9))
def test_every_stream_is_planned_once_and_leaves_in_time(
    streams: list[ServedStream], among: list[Peer], left_s: float, drainers: int
) -> None:
    planned = schedule(streams, among, left_s, drainers=drainers)
    moves: list[HandOff] = [*planned.due, *planned.later]
    assert sorted([*planned.finish, *(move.key for move in moves)]) == sorted(stream.key for stream in streams)
    names = {peer.status.instance_id for peer in among}
    for move in moves:
        assert T0 <= move.at <= max(T0, T0 + left_s - MARGIN_S) + 1e-6
        assert move.target in names if names else move.target is None
    assert all(move.at <= T0 for move in planned.due)
    assert all(move.at > T0 for move in planned.later)
    by_key = {stream.key: stream for stream in streams}
    for key in planned.finish:
        left = by_key[key].remaining_s
        assert left is not None
        assert left < left_s - MARGIN_S + 1e-3


def test_a_peer_without_measurements_counts_as_an_average_one() -> None:
    among = [Peer(status("new"), IDLE)]
    planned = schedule([long(number, context=2_000) for number in range(3)], among)
    assert [hand_off.key for hand_off in planned.due] == [0, 1]
