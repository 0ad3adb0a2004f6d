"""Lifecycle, drain, routing, fleet, signing, backoff and patience: the node's pure decisions, on virtual time."""

from __future__ import annotations

from dataclasses import replace

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node_agent.contract.states import NodeState
from node_agent.core import drain, routing
from node_agent.core.backoff import Backoff, jittered_s
from node_agent.core.drain import ServedStream
from node_agent.core.fleet import DEAD_AFTER_S, MAX_WAYS, Fleet, NodeStatus, TaggedNode, status_from_json
from node_agent.core.lifecycle import (
    CloseClients,
    Effect,
    EngineGaveUp,
    EngineLost,
    EngineReady,
    Event,
    Lifecycle,
    MoveStreams,
    NoticeSeen,
    Publish,
    RebalanceSeen,
    Retire,
    TermRequested,
    Tick,
)
from node_agent.core.patience import MAX_FIRST_TOKEN_S, Pace, first_token_s, silence_s
from node_agent.core.signing import MAX_SKEW_S, Doorkeeper, sign

T0 = 1_000_000.0


def status(name: str, **changes: object) -> NodeStatus:
    base = NodeStatus(name, f"{name}:8001", f"{name}:8000", NodeState.READY, "us-east-1a", "g5.xlarge", "m", 0, 1)
    return replace(base, **changes)  # type: ignore[arg-type] # the test names fields


# lifecycle


def live(*events: Event) -> tuple[Lifecycle, list[Effect]]:
    machine = Lifecycle()
    return machine, [effect for event in events for effect in machine.handle(event)]


def states(effects: list[Effect]) -> list[NodeState]:
    return [effect.state for effect in effects if isinstance(effect, Publish)]


def test_a_node_is_ready_when_its_engine_is_and_not_while_it_is_not() -> None:
    machine, effects = live(EngineReady(1), EngineLost(2, "killed"), EngineReady(3))
    assert states(effects) == [NodeState.READY, NodeState.STARTING, NodeState.READY]
    assert machine.state is NodeState.READY


def test_a_notice_cordons_first_and_moves_streams_second() -> None:
    _, effects = live(EngineReady(1), NoticeSeen(2, 122))
    assert effects[1:] == [Publish(NodeState.DRAINING, "notice-seen", "imds", 2, 122), MoveStreams(122)]


def test_a_drained_node_retires_at_once_and_with_success() -> None:
    _, effects = live(EngineReady(1), NoticeSeen(2, 122), Tick(3, 1), Tick(4, 0), Tick(5, 0))
    assert effects[3:] == [MoveStreams(122), CloseClients(), Retire(0, "drained")]


def test_clients_are_told_before_the_deadline_once_and_the_node_goes_with_streams_open_if_it_must() -> None:
    _, effects = live(EngineReady(1), NoticeSeen(2, 122), Tick(117.5, 2), Tick(118, 2), Tick(119.5, 2))
    assert effects[3:] == [CloseClients(), CloseClients(), Retire(0, "the deadline, with 2 streams open")]


def test_a_rebalance_recommendation_makes_a_node_at_risk_also_before_it_is_ready() -> None:
    _, effects = live(EngineReady(1), RebalanceSeen(2), RebalanceSeen(3))
    assert states(effects) == [NodeState.READY, NodeState.AT_RISK]
    _, effects = live(RebalanceSeen(1), EngineReady(2))
    assert states(effects) == [NodeState.AT_RISK]


def test_only_a_shorter_deadline_replaces_one() -> None:
    machine, effects = live(EngineReady(1), TermRequested(2, 92), NoticeSeen(3, 123), NoticeSeen(4, 50))
    assert machine.deadline == 50
    assert [e.step for e in effects if isinstance(e, Publish)] == ["ready", "termination-requested", "notice-seen"]


def test_a_draining_node_never_becomes_ready_again() -> None:
    machine, effects = live(TermRequested(1, 91), EngineReady(2), RebalanceSeen(3), EngineLost(4, "x"))
    assert machine.state is NodeState.DRAINING
    assert states(effects) == [NodeState.DRAINING]


def test_an_engine_that_cannot_be_kept_ends_the_node_and_after_that_nothing_happens() -> None:
    machine, effects = live(EngineGaveUp(1, "6 times"), NoticeSeen(2, 3), Tick(4, 0))
    assert machine.state is NodeState.GONE
    assert effects == [CloseClients(), Retire(69, "the engine cannot be kept running: 6 times")]


EVENTS = st.one_of(
    st.builds(EngineReady, st.just(0)),
    st.builds(EngineLost, st.just(0), st.just("x")),
    st.builds(EngineGaveUp, st.just(0), st.just("x")),
    st.builds(NoticeSeen, st.just(0), st.integers(1, 200)),
    st.builds(RebalanceSeen, st.just(0)),
    st.builds(TermRequested, st.just(0), st.integers(1, 200)),
    st.builds(Tick, st.integers(0, 200), st.integers(0, 2)),
)


@given(st.lists(EVENTS, max_size=30))
def test_whatever_happens_a_drain_is_never_undone_and_the_deadline_never_moves_away(events: list[Event]) -> None:
    machine = Lifecycle()
    for event in events:
        before, deadline = machine.state, machine.deadline
        effects = machine.handle(event)
        if before in (NodeState.DRAINING, NodeState.GONE):
            assert machine.state.rank >= before.rank
        if before is NodeState.GONE:
            assert effects == ()
        if deadline is not None:
            assert machine.deadline is not None
            assert machine.deadline <= deadline


# drain


def test_what_fits_before_the_deadline_stays_and_the_longest_leaves_first() -> None:
    streams = [ServedStream(1, 100, 0.1), ServedStream(2, 2_000, 0.1), ServedStream(3, 5_000, 0.1)]
    assert drain.plan(streams, now=0, deadline=120) == drain.DrainPlan((1,), (3, 2))


def test_a_stream_of_unknown_length_or_pace_is_handed_off_first() -> None:
    streams = [ServedStream(1, 9_999, 1.0), ServedStream(2, None, 0.1), ServedStream(3, 10, 0.0)]
    assert drain.plan(streams, now=0, deadline=120).hand_off == (2, 3, 1)


@given(
    st.lists(
        st.builds(ServedStream, st.integers(), st.none() | st.integers(0, 9_999), st.floats(0, 2)),
        unique_by=lambda s: s.key,
    ),
    st.floats(-10, 300),
)
def test_every_stream_is_planned_once_and_none_stays_past_the_margin(
    streams: list[ServedStream], left_s: float
) -> None:
    plan = drain.plan(streams, now=T0, deadline=T0 + left_s)
    assert sorted((*plan.finish, *plan.hand_off)) == sorted(s.key for s in streams)
    for stream in streams:
        if stream.key in plan.finish:
            assert (stream.remaining_tokens or 0) * stream.time_per_token_s < left_s - drain.MARGIN_S + 1e-3


# routing


def test_all_nodes_choose_alike_whatever_the_order_they_know_each_other_in() -> None:
    nodes = [status(name) for name in "abcdef"]
    for prefix in (b"1", b"2", b"3"):
        routes = [routing.choose(order, model="m", prefix=prefix) for order in (nodes, nodes[::-1])]
        assert routes[0] == routes[1]


def test_prefixes_spread_over_the_fleet() -> None:
    nodes = [status(name) for name in "abcd"]
    chosen = [routing.choose(nodes, model="m", prefix=b"%d" % i) for i in range(400)]
    counts = [sum(r is not None and r.node is node for r in chosen) for node in nodes]
    assert min(counts) > 60


def test_a_node_that_goes_moves_only_its_own_prefixes() -> None:
    nodes = [status(name) for name in "abcd"]
    for i in range(100):
        before = routing.choose(nodes, model="m", prefix=b"%d" % i)
        after = routing.choose(nodes[:-1], model="m", prefix=b"%d" % i)
        assert before is not None
        assert after is not None
        assert before.node is nodes[-1] or before.node is after.node


def test_only_nodes_that_serve_the_model_and_were_not_tried() -> None:
    nodes = [status("a"), status("b", model="other"), status("c")]
    routes = [routing.choose(nodes, model="m", prefix=b"%d" % i, tried=["a"]) for i in range(9)]
    assert [route.node.instance_id for route in routes if route is not None] == ["c"] * 9
    assert routing.choose(nodes, model="m", prefix=b"", tried=["a", "c"]) is None
    assert routing.choose(nodes, model="nope", prefix=b"") is None
    assert routing.choose([], model=None, prefix=b"") is None


def test_at_risk_nodes_serve_only_where_no_other_does() -> None:
    risky, calm = status("a", state=NodeState.AT_RISK), status("b")
    for i in range(20):
        route = routing.choose([risky, calm], model="m", prefix=b"%d" % i)
        assert route is not None
        assert route.node is calm
    route = routing.choose([risky], model="m", prefix=b"")
    assert route is not None
    assert route.reason == "prefix;only-at-risk"


def test_after_a_loss_another_pool_is_preferred_and_the_same_one_better_than_none() -> None:
    lost = status("a")
    same, other = status("b"), status("c", zone="us-east-1b")
    for i in range(20):
        route = routing.choose([same, other], model="m", prefix=b"%d" % i, avoid=lost.pool)
        assert route is not None
        assert (route.node, route.reason) == (other, "prefix;other-pool")
    route = routing.choose([same], model="m", prefix=b"", avoid=lost.pool)
    assert route is not None
    assert route.reason == "prefix;same-pool"


def test_an_overloaded_owner_of_a_prefix_is_passed_over() -> None:
    busy, idle = status("a", in_flight=50), status("b", in_flight=1)
    reasons = set()
    for i in range(20):
        route = routing.choose([busy, idle], model="m", prefix=b"%d" % i)
        assert route is not None
        assert route.node is idle
        reasons.add(route.reason)
    assert reasons == {"prefix", "prefix-owner-overloaded"}


# fleet


def test_a_tagged_peer_serves_once_it_was_heard_and_not_after_it_fell_silent() -> None:
    fleet = Fleet("me")
    fleet.tagged([TaggedNode("a", "a:8001", NodeState.READY), TaggedNode("me", "me:8001", None)], T0)
    assert list(fleet.peers) == ["a"]
    assert fleet.serving(T0) == []
    assert fleet.heard(status("a"), T0)
    assert not fleet.heard(status("a"), T0 + 1)
    assert fleet.serving(T0 + 1 + DEAD_AFTER_S) == [status("a")]
    assert fleet.serving(T0 + 1.1 + DEAD_AFTER_S) == []


def test_a_refused_connection_excludes_at_once_until_the_peer_speaks() -> None:
    fleet = Fleet("me")
    fleet.heard(status("a"), T0)
    fleet.failed("a")
    fleet.failed("unknown")
    assert fleet.serving(T0) == []
    fleet.heard(status("a"), T0 + 1)
    assert fleet.serving(T0 + 1) == [status("a")]


def test_an_older_incarnation_is_ignored() -> None:
    fleet = Fleet("me")
    fleet.heard(status("a", incarnation=2, state=NodeState.DRAINING), T0)
    assert not fleet.heard(status("a", incarnation=1), T0)
    assert fleet.serving(T0) == []


def test_a_peer_without_tags_is_kept_while_it_speaks_and_forgotten_when_it_does_not() -> None:
    fleet = Fleet("me")
    fleet.heard(status("a"), T0)
    fleet.tagged([], T0 + 1)
    assert "a" in fleet.peers
    fleet.tagged([], T0 + 1 + DEAD_AFTER_S)
    assert "a" not in fleet.peers


def test_a_node_never_holds_itself_and_a_gone_one_is_not_taken_in() -> None:
    fleet = Fleet("me")
    assert not fleet.heard(status("me"), T0)
    fleet.tagged([TaggedNode("a", "a:1", NodeState.GONE)], T0)
    assert fleet.peers == {}


def test_the_number_of_peers_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node_agent.core.fleet.MAX_NODES", 2)
    fleet = Fleet("me")
    fleet.tagged([TaggedNode(str(i), "h:1", None) for i in range(5)], T0)
    fleet.heard(status("z"), T0)
    assert len(fleet.peers) == 2


def test_a_status_survives_the_way_over_the_peer_door() -> None:
    assert status_from_json(status("a").to_json()) == status("a")
    with pytest.raises(KeyError):
        status_from_json({})


def test_a_status_says_how_its_engine_can_go_on_and_an_older_one_says_nothing_of_it() -> None:
    able = status("a", ways=("resume", "forced"))
    told = orjson.loads(orjson.dumps(able.to_json()))
    assert status_from_json(told) == able
    del told["ways"]
    assert status_from_json(told).ways == ()
    assert len(status_from_json({**told, "ways": ["x"] * 1000}).ways) == MAX_WAYS


# signing


def test_a_signed_message_is_welcome_once_and_nothing_else_is() -> None:
    keeper = Doorkeeper(b"key")
    stamp = sign(b"key", "POST", "/x", b"body", T0, "n1")
    assert keeper.refusal(None, "POST", "/x", b"body", T0) == "no signature"
    assert keeper.refusal("v1 a b c", "POST", "/x", b"body", T0) == "no signature"
    assert keeper.refusal(stamp, "POST", "/y", b"body", T0) == "wrong signature"
    assert keeper.refusal(stamp, "POST", "/x", b"other", T0) == "wrong signature"
    assert (
        keeper.refusal(sign(b"other", "POST", "/x", b"body", T0, "n2"), "POST", "/x", b"body", T0) == "wrong signature"
    )
    assert keeper.refusal(stamp, "POST", "/x", b"body", T0 + MAX_SKEW_S + 1) == "too old or too new"
    assert keeper.refusal(stamp, "POST", "/x", b"body", T0 - MAX_SKEW_S - 1) == "too old or too new"
    assert keeper.refusal(stamp, "POST", "/x", b"body", T0) is None
    assert keeper.refusal(stamp, "POST", "/x", b"body", T0 + 1) == "seen before"


def test_nonces_are_forgotten_by_time_and_by_number() -> None:
    keeper = Doorkeeper(b"key", max_nonces=3)
    for i in range(10):
        assert keeper.refusal(sign(b"key", "GET", "/", b"", T0, str(i)), "GET", "/", b"", T0) is None
    assert len(keeper._seen) == len(keeper._order) == 3


# backoff and patience


def test_waits_grow_stay_in_bounds_and_end() -> None:
    backoff = Backoff(first_s=1.0, max_s=8.0, tries=6)
    assert [backoff.wait_s(n, 0.999) for n in (1, 2, 3)] == pytest.approx([1, 2, 4], rel=0.01)
    assert backoff.wait_s(5, 0.0) == 4.0
    assert backoff.wait_s(6, 0.5) is None
    assert Backoff(1.0, 8.0).wait_s(10_000, 0.5) == 6.0
    assert jittered_s(30, 0.0) == pytest.approx(24)
    assert jittered_s(30, 1.0) == pytest.approx(36)


def test_patience_follows_the_engine_within_bounds() -> None:
    assert silence_s(0.02) == 2.0
    assert silence_s(0.5) == 4.0
    assert first_token_s(0) == 30.0
    assert first_token_s(100 * 1024 * 1024) == MAX_FIRST_TOKEN_S
    pace = Pace()
    for _ in range(500):
        pace.observe(0.1)
    assert pace.time_per_token_s == pytest.approx(0.1)
