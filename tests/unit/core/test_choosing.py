"""Ring, router, breaker, admission, affinity: which engine serves, whether it may, and who has to wait."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node_agent.contract.states import NodeState
from node_agent.core import admission as admitting
from node_agent.core.admission import Admission, Refused, Ticket
from node_agent.core.affinity import MAX_BYTES, conversation_key, prompt_key, session_key
from node_agent.core.breaker import FAILURES, FIRST_OPEN_S, MAX_OPEN_S, TRIAL_S, Breaker
from node_agent.core.nodes import Load, NodeStatus, Pool, load_from_header, load_to_header
from node_agent.core.ring import Ring, key_of
from node_agent.core.router import BOUND, MAX_WAITING, NEAR, SLACK, Nowhere, Request, Route, Router

KEYS = [key_of(b"%d" % number) for number in range(400)]
NAMES = st.sets(st.text("abcdef", min_size=1, max_size=3), max_size=12)


# the ring


@given(NAMES, NAMES, st.randoms(use_true_random=False))
def test_a_ring_is_the_same_however_it_came_about(names: set[str], passing: set[str], order: random.Random) -> None:
    direct: Ring[str] = Ring()
    direct.add_all({name: name for name in sorted(names)})
    roundabout: Ring[str] = Ring()
    together = list(names | passing)
    order.shuffle(together)
    for name in together:
        roundabout.add(name, name)
    order.shuffle(together)
    for name in together:
        if name not in names:
            roundabout.remove(name)
    for key in KEYS[:40]:
        assert direct.owner(key) == roundabout.owner(key)
        assert list(direct.walk(key)) == list(roundabout.walk(key))
    assert len(direct) == len(names)
    assert set(direct) == names


def test_many_added_at_once_lie_where_each_would() -> None:
    one_by_one: Ring[int] = Ring()
    at_once: Ring[int] = Ring()
    for number in range(3):
        one_by_one.add(f"n{number}", number)
        at_once.add(f"n{number}", number)
    for number in range(2, 40):
        one_by_one.add(f"n{number}", number * 10)
    at_once.add_all({f"n{number}": number * 10 for number in range(2, 40)})
    assert [list(one_by_one.walk(key)) for key in KEYS[:20]] == [list(at_once.walk(key)) for key in KEYS[:20]]


def test_a_walk_meets_everyone_once_its_owner_first() -> None:
    ring: Ring[str] = Ring()
    assert ring.owner(7) is None
    assert list(ring.walk(7)) == []
    ring.add_all({name: name for name in "abcdefgh"})
    for key in KEYS:
        walk = list(ring.walk(key))
        assert walk[0] == ring.owner(key)
        assert sorted(walk) == list("abcdefgh")
    ring.remove("not there")
    assert "a" in ring


def test_a_node_that_comes_takes_its_share_and_moves_nothing_else() -> None:
    ring: Ring[str] = Ring()
    ring.add_all({name: name for name in "abcdefghi"})
    before = {key: ring.owner(key) for key in KEYS}
    ring.add("z", "z")
    moved = [key for key in KEYS if ring.owner(key) != before[key]]
    assert all(ring.owner(key) == "z" for key in moved)
    assert 0.03 < len(moved) / len(KEYS) < 0.2  # a tenth


def test_shares_are_even_enough_for_bounded_loads_to_do_the_rest() -> None:
    ring: Ring[int] = Ring()
    ring.add_all({f"i-{number:017x}": number for number in range(20)})
    keys = [random.Random(1).getrandbits(64) ^ key_of(b"%d" % number) for number in range(20_000)]
    shares = Counter(ring.owner(key) for key in keys)
    assert min(shares.values()) / 1_000 > 0.6
    assert max(shares.values()) / 1_000 < 1.5


# the router


class Source:
    def __init__(self, running: int = 0, waiting: int = 0, kv_use: float = 0.1) -> None:
        self.load_version = 0
        self.say(running, waiting, kv_use)

    def say(self, running: int, waiting: int = 0, kv_use: float = 0.1) -> None:
        self.load = Load(running, waiting, kv_use, 0.03, 1000.0)
        self.load_version += 1


def status(name: str, state: NodeState = NodeState.READY, zone: str = "a", model: str = "m") -> NodeStatus:
    return NodeStatus(name, f"{name}:8001", f"{name}:8000", state, Pool(zone, "g5"), model, 1)


class Scene:
    """A router on node `me` and its peers, each with a load of its own."""

    def __init__(self, *peers: NodeStatus, own: NodeStatus | None = None) -> None:
        self.own = own or status("me")
        self.peers = {peer.instance_id: peer for peer in peers}
        self.sources = {name: Source() for name in self.peers}
        self.router = Router("me")
        self.renew()

    def renew(self) -> None:
        self.router.renew(self.peers.values(), self.sources, self.own)

    def recount(self) -> None:
        for _ in range(2 * len(self.peers) + 2):
            self.route(Request("m", 0, goes_on=True))

    def route(self, request: Request, now: float = 0.0) -> Route:
        route = self.router.choose(request, now)
        assert isinstance(route, Route), route
        return route

    def chosen(self, request: Request, now: float = 0.0) -> str:
        return self.route(request, now).node.instance_id


def peers(names: str, **fields: NodeState | str | Pool) -> list[NodeStatus]:
    return [replace(status(name), **fields) for name in names]  # type: ignore[arg-type] # the test names fields


def test_all_nodes_choose_alike_whatever_order_they_know_each_other_in() -> None:
    one, two = Scene(*peers("abcde")), Scene(*peers("edcba"))
    assert [one.chosen(Request("m", key)) for key in KEYS] == [two.chosen(Request("m", key)) for key in KEYS]
    assert {one.route(Request("m", key)).reason for key in KEYS} == {"prefix"}


def test_a_session_goes_where_it_went_and_says_so() -> None:
    scene = Scene(*peers("abc"))
    routes = {scene.route(Request("m", 77, by_session=True)) for _ in range(20)}
    assert len(routes) == 1
    assert routes.pop().reason == "session"


def test_an_owner_beyond_the_bound_is_passed_over_for_the_least_loaded_of_the_next_few() -> None:
    scene = Scene(*peers("abcdefgh"))
    key = next(key for key in KEYS if scene.chosen(Request("m", key)) == "a")
    order = [candidate.name for candidate in scene.router._sides["m"].ring.walk(key)]
    for name in order[1:]:
        if name != "me":
            scene.sources[name].say(6)
    scene.router.own_load.measured(Load(6, 0, 0.1, 0.03, 1000.0))
    scene.recount()
    scene.sources["a"].say(10)  # the mean is 5.3, so the bound is 10.7
    assert scene.chosen(Request("m", key)) == "a"
    scene.sources["a"].say(14)
    third = next(name for name in order[2:4] if name != "me")
    scene.sources[third].say(2)
    scene.recount()
    assert (scene.chosen(Request("m", key)), scene.route(Request("m", key)).reason) == (third, "overflow")


def test_where_all_near_ones_are_beyond_the_bound_the_least_loaded_of_more_is_taken() -> None:
    scene = Scene(*[status(f"n{number}") for number in range(20)], own=status("me", NodeState.STARTING))
    key = KEYS[0]
    order = [candidate.name for candidate in scene.router._sides["m"].ring.walk(key)]
    for name in order[:4]:
        scene.sources[name].say(50)
    scene.recount()
    route = scene.route(Request("m", key))
    assert route.reason == "crowded"
    assert route.node.instance_id in order[4:]


def test_what_this_node_sent_since_a_node_spoke_counts_too() -> None:
    """Loads lag; a burst that this node makes itself must not wait for them."""
    scene = Scene(*peers("abc"))
    key = KEYS[0]
    seen: Counter[str] = Counter()
    for _ in range(60):
        name = scene.chosen(Request("m", key))
        seen[name] += 1
        scene.router.opened(name)
    assert len(seen) == 4
    assert max(seen.values()) <= BOUND * 15 + SLACK + 2
    busiest = max(seen, key=lambda name: seen[name])
    for _ in range(seen[busiest]):
        scene.router.closed(busiest)
    scene.router.closed(busiest)  # once too often: nothing to take away
    assert scene.chosen(Request("m", key)) == busiest


def test_a_request_without_a_beginning_stays_here_while_here_is_within_the_bound() -> None:
    scene = Scene(*peers("abc"))
    assert scene.route(Request("m")) == Route(scene.own, "local")
    scene.router.own_load.measured(Load(30, 0, 0.1, 0.03, 1000.0))
    scene.recount()
    route = scene.route(Request("m"))
    assert route.reason == "least-loaded"
    assert route.node.instance_id != "me"
    scene.own = status("me", NodeState.DRAINING)
    scene.renew()
    assert {scene.chosen(Request("m")) for _ in range(30)} <= {"a", "b", "c"}
    assert scene.route(Request("m")).reason == "least-loaded"


def test_at_risk_nodes_serve_only_where_no_other_does() -> None:
    scene = Scene(*peers("ab", state=NodeState.AT_RISK), *peers("c"), own=status("me", NodeState.STARTING))
    assert {scene.chosen(Request("m", key)) for key in KEYS} == {"c"}
    assert scene.chosen(Request("m")) == "c"
    scene.peers.pop("c")
    scene.renew()
    routes = [scene.route(Request("m", key)) for key in KEYS[:50]]
    assert {route.reason for route in routes} == {"prefix;only-at-risk"}
    assert {route.node.instance_id for route in routes} == {"a", "b"}


def test_a_full_ready_node_is_worse_than_one_at_risk() -> None:
    scene = Scene(*peers("a", state=NodeState.AT_RISK), *peers("b"), own=status("me", NodeState.STARTING))
    scene.sources["b"].say(40, MAX_WAITING)
    assert scene.chosen(Request("m", KEYS[0])) == "a"


def test_after_a_loss_other_pools_come_first_and_the_same_one_is_better_than_none() -> None:
    scene = Scene(*peers("ab", pool=Pool("b", "g5")), *peers("cd"), own=status("me", NodeState.STARTING))
    lost = Pool("a", "g5")
    routes = [scene.route(Request("m", key, avoid=lost, tried=("c",))) for key in KEYS]
    assert {route.node.instance_id for route in routes} == {"a", "b"}
    assert {route.reason for route in routes} == {"prefix;other-pool"}
    route = scene.route(Request("m", KEYS[0], avoid=lost, tried=("a", "b", "c")))
    assert (route.node.instance_id, route.reason) == ("d", "prefix;same-pool")


def test_only_who_is_able_is_chosen_also_where_another_was_named() -> None:
    scene = Scene(*peers("abc"))

    def able(node: NodeStatus) -> bool:
        return node.instance_id == "c"

    assert {scene.route(Request("m", key, able=able)).node.instance_id for key in KEYS} == {"c"}
    assert scene.route(Request("m", KEYS[0], able=able, handed_to="b")).node.instance_id == "c"
    assert scene.router.choose(Request("m", KEYS[0], able=lambda node: False), 0.0) is Nowhere.FULL


def test_who_is_handed_over_goes_to_the_one_it_was_handed_to_if_that_one_can() -> None:
    scene = Scene(*peers("abc"))
    route = scene.route(Request("m", KEYS[0], handed_to="b", goes_on=True))
    assert (route.node.instance_id, route.reason) == ("b", "handed-over")
    assert scene.route(Request("m", KEYS[0], handed_to="b", tried=("b",))).node.instance_id != "b"
    assert scene.route(Request("m", KEYS[0], handed_to="gone")).reason == "prefix"


def test_a_request_goes_where_its_model_is() -> None:
    scene = Scene(*peers("ab"), *peers("cd", model="other"), *peers("e", model=""))
    assert {scene.chosen(Request("other", key)) for key in KEYS[:50]} == {"c", "d"}
    assert {scene.chosen(Request("m", key)) for key in KEYS[:50]} == {"a", "b", "me"}
    assert scene.chosen(Request(None)) == "me"
    assert scene.router.models() == {"m", "other"}
    assert scene.router.choose(Request("unknown", 1), 0.0) is Nowhere.NO_MODEL
    assert Router("me").choose(Request("m", 1), 0.0) is Nowhere.NO_NODE


def test_a_full_fleet_says_so_and_what_has_begun_goes_on_all_the_same() -> None:
    scene = Scene(*peers("ab"))
    scene.sources["a"].say(30, MAX_WAITING)
    scene.sources["b"].say(30, 0, kv_use=0.99)
    scene.router.own_load.measured(Load(30, MAX_WAITING, 0.9, 0.03, 1000.0))
    assert scene.router.choose(Request("m", KEYS[0]), 0.0) is Nowhere.FULL
    assert scene.router.choose(Request("m"), 0.0) is Nowhere.FULL
    assert scene.route(Request("m", KEYS[0], goes_on=True)).node.instance_id in ("a", "b", "me")
    assert scene.router.choose(Request("m", KEYS[0], goes_on=True, tried=("a", "b", "me")), 0.0) is Nowhere.FULL


def test_a_peer_that_loses_requests_again_and_again_is_left_alone_and_tried_with_one() -> None:
    scene = Scene(*peers("ab"), own=status("me", NodeState.STARTING))
    key = next(key for key in KEYS if scene.chosen(Request("m", key)) == "a")
    for _ in range(FAILURES):
        scene.router.failed("a", 10.0)
    assert scene.chosen(Request("m", key), 10.1) == "b"
    later = 10.0 + FIRST_OPEN_S
    assert scene.chosen(Request("m", key), later) == "a"  # the trial
    assert scene.chosen(Request("m", key), later) == "b"
    scene.router.succeeded("a")
    assert scene.chosen(Request("m", key), later) == "a"
    scene.router.failed("nobody", 0.0)
    scene.router.succeeded("nobody")
    scene.router.opened("nobody")


def test_what_is_known_of_a_node_survives_a_change_of_its_state_and_not_its_new_life() -> None:
    scene = Scene(*peers("ab"))
    for _ in range(20):
        scene.router.opened("a")
    scene.peers["a"] = status("a", NodeState.AT_RISK)
    scene.renew()
    assert scene.router._candidates["a"].in_flight() == 20
    scene.sources["a"] = Source(3)
    scene.renew()
    assert scene.router._candidates["a"].in_flight() >= 3


@given(
    st.lists(
        st.tuples(st.integers(0, 40), st.integers(0, 10), st.sampled_from(["ready", "at-risk"])), min_size=1, max_size=9
    ),
    st.integers(0, 399),
    st.booleans(),
    st.sets(st.integers(0, 8), max_size=3),
)
def test_whatever_the_loads_a_route_keeps_the_rules(
    loads: list[tuple[int, int, str]], number: int, goes_on: bool, tried: set[int]
) -> None:
    scene = Scene(
        *[status(f"n{n}", NodeState(state)) for n, (_, _, state) in enumerate(loads)],
        own=status("me", NodeState.STARTING),
    )
    for n, (running, waiting, _) in enumerate(loads):
        scene.sources[f"n{n}"].say(running, waiting)
    for _ in range(len(loads)):
        scene.router.choose(Request("m", 1), 0.0)
    names = {f"n{n}" for n in tried}
    route = scene.router.choose(Request("m", KEYS[number], tried=names, goes_on=goes_on), 0.0)
    able = {
        f"n{n}": NodeState(state)
        for n, (_, waiting, state) in enumerate(loads)
        if f"n{n}" not in names and (goes_on or waiting < MAX_WAITING)
    }
    if not able:
        assert route is Nowhere.FULL
        return
    assert isinstance(route, Route)
    assert route.node.instance_id in able
    if NodeState.READY in able.values():
        assert able[route.node.instance_id] is NodeState.READY


@pytest.mark.parametrize("nodes", [3, 1_000])
@pytest.mark.parametrize("running", [0, 50])
def test_a_route_looks_at_a_few_nodes_at_any_size(nodes: int, running: int) -> None:
    """What that takes in microseconds is bench/choosing.py's."""
    scene = Scene(*[status(f"n{number}") for number in range(nodes - 1)])
    for number in range(0, nodes - 1, 2):
        scene.sources[f"n{number}"].say(running)
    looked: Counter[int] = Counter()
    for place, key in enumerate(KEYS):

        def look(node: NodeStatus, place: int = place) -> bool:
            looked[place] += 1
            return True

        scene.router.choose(Request("m", key, able=look), 0.0)
    assert max(looked.values()) <= 2 * NEAR


# the breaker


def test_a_breaker_opens_after_some_failures_and_twice_as_long_each_time() -> None:
    breaker, now, opened = Breaker(), 0.0, []
    for _ in range(FAILURES - 1):
        breaker.failed(now)
    assert breaker.allows(now)
    for _ in range(8):
        breaker.failed(now)
        assert not breaker.allows(now)
        began = now
        while not breaker.allows(now):
            now += 0.25
        opened.append(now - began)
        breaker.chosen(now)
        assert not breaker.allows(now)
    assert opened == [1.0, 2.0, 4.0, 8.0, 16.0, MAX_OPEN_S, MAX_OPEN_S, MAX_OPEN_S]
    assert breaker.allows(now + TRIAL_S)  # whoever had the trial never said how it ended
    breaker.succeeded()
    assert breaker.is_closed
    breaker.failed(now)
    assert breaker.allows(now)


# admission


def test_who_cannot_be_served_waits_first_come_first_served() -> None:
    admission = Admission()
    assert admission.may_pass()
    first, second = admission.arrive(0.0, 0.5), admission.arrive(0.1, 0.5)
    assert isinstance(first, Ticket)
    assert isinstance(second, Ticket)
    assert not admission.may_pass()  # nobody overtakes
    assert admission.next == first
    admission.admitted(0.5, first)
    assert admission.next == second
    for _ in range(2):  # the second time there is nothing to take back
        admission.withdraw(second)
    assert admission.next_deadline() is None
    assert len(admission) == 0


def test_the_queue_is_bounded_in_number_and_in_time() -> None:
    admission = Admission(max_waiting=3, max_wait_s=10.0)
    tickets = [admission.arrive(float(number), 0.5) for number in range(3)]
    refused = admission.arrive(3.0, 0.5)
    assert isinstance(refused, Refused)
    assert refused.why == "queue-full"
    assert len(admission) == 3
    assert admission.next_deadline() == 10.0
    assert admission.overdue(9.9) == []
    assert admission.overdue(11.0) == tickets[:2]
    assert admission.waited_too_long(11.0, 0.5).why == "waited-too-long"
    assert len(admission) == 1


def test_retry_after_follows_from_how_fast_requests_were_let_in() -> None:
    admission = Admission(max_waiting=100)
    assert admission.retry_after_s(0.0, 0.5) == admitting.MOST_RETRY_S  # nothing was, ever
    for tick in range(1, 400):
        admission.admitted(tick * 0.1)  # ten a second
    for _ in range(49):
        admission.arrive(40.0, 0.5)
    assert admission.retry_after_s(40.0, 0.5) == pytest.approx(5.0, rel=0.15)
    assert admission.retry_after_s(40.0, 0.0) < admission.retry_after_s(40.0, 1.0)
    assert admission.retry_after_s(4_000.0, 0.5) == admitting.MOST_RETRY_S
    assert Admission().retry_after_s(0.0, 0.0) >= admitting.LEAST_RETRY_S


@given(st.lists(st.tuples(st.sampled_from("arn"), st.floats(0, 5), st.floats(0, 0.999)), max_size=80))
def test_whatever_happens_the_queue_stays_within_its_bound_and_promises_are_sane(
    steps: list[tuple[str, float, float]],
) -> None:
    admission, now = Admission(max_waiting=5, max_wait_s=3.0), 0.0
    for kind, wait_s, chance in steps:
        now += wait_s
        if kind == "a":
            answer = admission.arrive(now, chance)
            if isinstance(answer, Refused):
                assert admitting.LEAST_RETRY_S <= answer.retry_after_s <= admitting.MOST_RETRY_S
        elif kind == "r" and admission.next is not None:
            admission.admitted(now, admission.next)
        else:
            assert all(ticket.due <= now for ticket in admission.overdue(now))
        assert len(admission) <= 5


# affinity

SYSTEM = {"role": "system", "content": "You are terse. " * 200}


def turns(*texts: str) -> list[object]:
    roles = ["user", "assistant"]
    return [SYSTEM, *({"role": roles[n % 2], "content": text} for n, text in enumerate(texts))]


def test_all_turns_of_a_conversation_have_the_same_key_and_others_have_another() -> None:
    first = conversation_key(turns("hello"))
    assert first is not None
    assert conversation_key(turns("hello", "Hi.", "more")) == first
    assert conversation_key(turns("hello", "Another answer.", "more", "x", "y")) == first
    assert conversation_key(turns("good day")) != first
    assert conversation_key(turns("hello")[1:]) != first


def test_what_comes_far_behind_or_is_no_text_does_not_matter_and_costs_nothing() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:" + "x" * 5_000_000}}
    other = {"type": "image_url", "image_url": {"url": "data:" + "x" * 5_000_001}}
    key = conversation_key([{"role": "user", "content": [{"type": "text", "text": "what is this?"}, image]}])
    assert key is not None
    assert key != conversation_key([{"role": "user", "content": [{"type": "text", "text": "what is this?"}, other]}])
    long = "y" * (2 * MAX_BYTES)
    assert prompt_key(long) == prompt_key(long + "z")
    assert prompt_key("a") != prompt_key("b")


def test_prompts_of_every_form_have_keys() -> None:
    assert prompt_key("text") == prompt_key(["text", "and another"])
    assert prompt_key([1, 2, 3]) == prompt_key([[1, 2, 3], [4]])
    assert prompt_key([1, 2, 3]) != prompt_key([1, 23])
    assert session_key("s") != prompt_key("s")
    assert session_key("") is prompt_key("") is prompt_key([]) is prompt_key(None) is conversation_key("x") is None


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(JUNK)
def test_whatever_a_client_sends_has_a_key_or_none(body: object) -> None:
    for key in (conversation_key(body), prompt_key(body), conversation_key([{"role": "user", "content": body}])):
        assert key is None or 0 <= key < 2**64


def test_a_load_goes_in_one_line_and_nonsense_is_none() -> None:
    load = Load(7, 2, 0.25, 0.0125, 1_500.0)
    assert load_from_header(load_to_header(load)) == load
    for nonsense in (b"", b"7 2", b"a b c d e", b"1 2 3 4 5 6"):
        with pytest.raises(ValueError, match=r"invalid literal|could not convert|not enough|too many"):
            load_from_header(nonsense)
