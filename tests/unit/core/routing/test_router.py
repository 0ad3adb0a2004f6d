"""Test the router: which engine serves a request, and when a failing peer gets none."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node_agent.contract.states import NodeState
from node_agent.core.node.status import Load, NodeStatus, Pool
from node_agent.core.routing.candidates import BOUND, FULL_KV, MAX_WAITING, SLACK, UNKNOWN_PLACES
from node_agent.core.routing.circuit_breaker import FAILURE_THRESHOLD, FIRST_OPEN_S, MAX_OPEN_S, TRIAL_S, CircuitBreaker
from node_agent.core.routing.hash_ring import key_of
from node_agent.core.routing.router import NEAR, NoRoute, Route, Router, RouteRequest

KEYS = [key_of(b"%d" % number) for number in range(400)]


class Source:
    def __init__(self, running: int = 0, waiting: int = 0, kv_use: float = 0.1) -> None:
        self.load_version = 0
        self.report(running, waiting, kv_use)

    def report(self, running: int, waiting: int = 0, kv_use: float = 0.1) -> None:
        self.load = Load(running, waiting, kv_use, 0.03, 1000.0)
        self.load_version += 1


def status(name: str, state: NodeState = NodeState.READY, zone: str = "a", model: str = "m") -> NodeStatus:
    return NodeStatus(name, f"{name}:8001", f"{name}:8000", state, Pool(zone, "g5"), model, 1)


class Scene:
    """A router on node `me` and its peers, each with its own load."""

    def __init__(self, *peers: NodeStatus, own: NodeStatus | None = None) -> None:
        self.own = own or status("me")
        self.peers = {peer.instance_id: peer for peer in peers}
        self.sources = {name: Source() for name in self.peers}
        self.router = Router("me")
        self.renew()

    def renew(self) -> None:
        self.router.update(self.peers.values(), self.sources, self.own)

    def recount(self) -> None:
        for _ in range(2 * len(self.peers) + 2):
            self.route(RouteRequest("m", 0, is_continuation=True))

    def route(self, request: RouteRequest, now: float = 0.0) -> Route:
        route = self.router.route(request, now)
        assert isinstance(route, Route), route
        return route

    def chosen(self, request: RouteRequest, now: float = 0.0) -> str:
        return self.route(request, now).node.instance_id


def peers(names: str, **fields: NodeState | str | Pool) -> list[NodeStatus]:
    return [replace(status(name), **fields) for name in names]  # type: ignore[arg-type] # the test names fields


def test_all_nodes_choose_alike_whatever_the_order_of_their_tables() -> None:
    one, two = Scene(*peers("abcde")), Scene(*peers("edcba"))
    assert [one.chosen(RouteRequest("m", key)) for key in KEYS] == [two.chosen(RouteRequest("m", key)) for key in KEYS]
    assert {one.route(RouteRequest("m", key)).reason for key in KEYS} == {"prefix"}


def test_a_session_keeps_its_node_and_the_reason_is_session() -> None:
    scene = Scene(*peers("abc"))
    routes = {scene.route(RouteRequest("m", 77, by_session=True)) for _ in range(20)}
    assert len(routes) == 1
    assert routes.pop().reason == "session"


def test_an_owner_beyond_the_bound_is_passed_over_for_the_least_loaded_of_the_next_few() -> None:
    scene = Scene(*peers("abcdefgh"))
    key = next(key for key in KEYS if scene.chosen(RouteRequest("m", key)) == "a")
    order = [candidate.name for candidate in scene.router._pools["m"].ring.walk(key)]
    for name in order[1:]:
        if name != "me":
            scene.sources[name].report(6)
    scene.router.own_load.set(Load(6, 0, 0.1, 0.03, 1000.0))
    scene.recount()
    scene.sources["a"].report(10)  # the mean is 5.3, so the bound is 10.7
    assert scene.chosen(RouteRequest("m", key)) == "a"
    scene.sources["a"].report(14)
    third = next(name for name in order[2:4] if name != "me")
    scene.sources[third].report(2)
    scene.recount()
    assert (scene.chosen(RouteRequest("m", key)), scene.route(RouteRequest("m", key)).reason) == (third, "overflow")


def test_where_all_near_ones_are_beyond_the_bound_the_least_loaded_of_more_is_taken() -> None:
    scene = Scene(*[status(f"n{number}") for number in range(20)], own=status("me", NodeState.STARTING))
    key = KEYS[0]
    order = [candidate.name for candidate in scene.router._pools["m"].ring.walk(key)]
    for name in order[:4]:
        scene.sources[name].report(50)
    scene.recount()
    route = scene.route(RouteRequest("m", key))
    assert route.reason == "crowded"
    assert route.node.instance_id in order[4:]


def test_requests_sent_since_the_last_load_of_a_node_count_too() -> None:
    """Loads lag; a burst that this node makes itself must not wait for them."""
    scene = Scene(*peers("abc"))
    key = KEYS[0]
    seen: Counter[str] = Counter()
    for _ in range(60):
        name = scene.chosen(RouteRequest("m", key))
        seen[name] += 1
        scene.router.request_started(name)
    assert len(seen) == 4
    assert max(seen.values()) <= BOUND * 15 + SLACK + 2
    busiest = max(seen, key=lambda name: seen[name])
    for _ in range(seen[busiest]):
        scene.router.request_ended(busiest)
    scene.router.request_ended(busiest)  # once too often: nothing to take away
    assert scene.chosen(RouteRequest("m", key)) == busiest


def test_a_request_without_a_prefix_stays_here_while_this_node_is_within_the_bound() -> None:
    scene = Scene(*peers("abc"))
    assert scene.route(RouteRequest("m")) == Route(scene.own, "local")
    scene.router.own_load.set(Load(30, 0, 0.1, 0.03, 1000.0))
    scene.recount()
    route = scene.route(RouteRequest("m"))
    assert route.reason == "least-loaded"
    assert route.node.instance_id != "me"
    scene.own = status("me", NodeState.DRAINING)
    scene.renew()
    assert {scene.chosen(RouteRequest("m")) for _ in range(30)} <= {"a", "b", "c"}
    assert scene.route(RouteRequest("m")).reason == "least-loaded"


def test_at_risk_nodes_serve_only_where_no_other_does() -> None:
    scene = Scene(*peers("ab", state=NodeState.AT_RISK), *peers("c"), own=status("me", NodeState.STARTING))
    assert {scene.chosen(RouteRequest("m", key)) for key in KEYS} == {"c"}
    assert scene.chosen(RouteRequest("m")) == "c"
    scene.peers.pop("c")
    scene.renew()
    routes = [scene.route(RouteRequest("m", key)) for key in KEYS[:50]]
    assert {route.reason for route in routes} == {"prefix;only-at-risk"}
    assert {route.node.instance_id for route in routes} == {"a", "b"}


def test_a_full_ready_node_is_worse_than_one_at_risk() -> None:
    scene = Scene(*peers("a", state=NodeState.AT_RISK), *peers("b"), own=status("me", NodeState.STARTING))
    scene.sources["b"].report(40, MAX_WAITING)
    assert scene.chosen(RouteRequest("m", KEYS[0])) == "a"


def test_after_a_loss_other_pools_come_first_and_the_same_one_is_better_than_none() -> None:
    scene = Scene(*peers("ab", pool=Pool("b", "g5")), *peers("cd"), own=status("me", NodeState.STARTING))
    lost = Pool("a", "g5")
    routes = [scene.route(RouteRequest("m", key, avoid=lost, tried=("c",))) for key in KEYS]
    assert {route.node.instance_id for route in routes} == {"a", "b"}
    assert {route.reason for route in routes} == {"prefix;other-pool"}
    route = scene.route(RouteRequest("m", KEYS[0], avoid=lost, tried=("a", "b", "c")))
    assert (route.node.instance_id, route.reason) == ("d", "prefix;same-pool")


def test_only_nodes_that_can_serve_are_chosen_also_over_a_handoff_target() -> None:
    scene = Scene(*peers("abc"))

    def able(node: NodeStatus) -> bool:
        return node.instance_id == "c"

    assert {scene.route(RouteRequest("m", key, can_serve=able)).node.instance_id for key in KEYS} == {"c"}
    assert scene.route(RouteRequest("m", KEYS[0], can_serve=able, handoff_target="b")).node.instance_id == "c"
    assert scene.router.route(RouteRequest("m", KEYS[0], can_serve=lambda node: False), 0.0) is NoRoute.FULL


def test_a_handed_off_request_goes_to_its_target_if_that_node_was_not_tried() -> None:
    scene = Scene(*peers("abc"))
    route = scene.route(RouteRequest("m", KEYS[0], handoff_target="b", is_continuation=True))
    assert (route.node.instance_id, route.reason) == ("b", "handed-over")
    assert scene.route(RouteRequest("m", KEYS[0], handoff_target="b", tried=("b",))).node.instance_id != "b"
    assert scene.route(RouteRequest("m", KEYS[0], handoff_target="gone")).reason == "prefix"


def test_a_request_goes_to_a_node_with_its_model() -> None:
    scene = Scene(*peers("ab"), *peers("cd", model="other"), *peers("e", model=""))
    assert {scene.chosen(RouteRequest("other", key)) for key in KEYS[:50]} == {"c", "d"}
    assert {scene.chosen(RouteRequest("m", key)) for key in KEYS[:50]} == {"a", "b", "me"}
    assert scene.chosen(RouteRequest(None)) == "me"
    assert scene.router.models() == {"m", "other"}
    assert scene.router.route(RouteRequest("unknown", 1), 0.0) is NoRoute.NO_MODEL
    assert Router("me").route(RouteRequest("m", 1), 0.0) is NoRoute.NO_NODE


def test_a_full_fleet_refuses_new_requests_and_accepts_continuations() -> None:
    scene = Scene(*peers("ab"))
    scene.sources["a"].report(30, MAX_WAITING)
    scene.sources["b"].report(30, 0, kv_use=0.99)
    scene.router.own_load.set(Load(30, MAX_WAITING, 0.9, 0.03, 1000.0))
    assert scene.router.route(RouteRequest("m", KEYS[0]), 0.0) is NoRoute.FULL
    assert scene.router.route(RouteRequest("m"), 0.0) is NoRoute.FULL
    assert scene.route(RouteRequest("m", KEYS[0], is_continuation=True)).node.instance_id in ("a", "b", "me")
    assert (
        scene.router.route(RouteRequest("m", KEYS[0], is_continuation=True, tried=("a", "b", "me")), 0.0)
        is NoRoute.FULL
    )


def test_between_two_reports_a_node_takes_what_it_has_run_before_and_a_few_more() -> None:
    scene = Scene()
    own, request = scene.router.own_load, RouteRequest("m")

    def taken() -> int:
        """Start requests until the node is full; return how many."""
        count = 0
        while isinstance(scene.router.route(request, 0.0), Route):
            scene.router.request_started("me")
            count += 1
        return count

    assert taken() == UNKNOWN_PLACES + UNKNOWN_PLACES // 4 + MAX_WAITING  # of an engine that was never full
    own.set(Load(8, 1, 0.1, 0.03, 1000.0))
    assert taken() == MAX_WAITING - 1
    scene.router.request_ended("me")
    assert taken() == 1
    own.set(Load(8, 0, 0.1, 0.03, 1000.0))
    assert taken() == 8 // 4 + MAX_WAITING
    own.set(Load(0, 0, 0.1, 0.03, 1000.0))
    assert taken() == 8 + 8 // 4 + MAX_WAITING  # it has run eight
    own.set(Load(14, 0, 0.1, 0.03, 1000.0))
    assert taken() == 14 // 4 + MAX_WAITING  # it runs more than before
    own.set(Load(40, 0, FULL_KV, 0.03, 1000.0))
    assert taken() == 0


def test_a_peer_that_loses_requests_repeatedly_gets_none_and_then_one_trial() -> None:
    scene = Scene(*peers("ab"), own=status("me", NodeState.STARTING))
    key = next(key for key in KEYS if scene.chosen(RouteRequest("m", key)) == "a")
    for _ in range(FAILURE_THRESHOLD):
        scene.router.failed("a", 10.0)
    assert scene.chosen(RouteRequest("m", key), 10.1) == "b"
    later = 10.0 + FIRST_OPEN_S
    assert scene.chosen(RouteRequest("m", key), later) == "a"  # the trial
    assert scene.chosen(RouteRequest("m", key), later) == "b"
    scene.router.succeeded("a")
    assert scene.chosen(RouteRequest("m", key), later) == "a"
    scene.router.failed("nobody", 0.0)
    scene.router.succeeded("nobody")
    scene.router.request_started("nobody")


def test_requests_in_flight_of_a_node_outlast_a_change_of_state() -> None:
    scene = Scene(*peers("ab"))
    for _ in range(20):
        scene.router.request_started("a")
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
def test_a_route_keeps_the_rules_at_any_loads(
    loads: list[tuple[int, int, str]], number: int, is_continuation: bool, tried: set[int]
) -> None:
    scene = Scene(
        *[status(f"n{n}", NodeState(state)) for n, (_, _, state) in enumerate(loads)],
        own=status("me", NodeState.STARTING),
    )
    for n, (running, waiting, _) in enumerate(loads):
        scene.sources[f"n{n}"].report(running, waiting)
    for _ in range(len(loads)):
        scene.router.route(RouteRequest("m", 1), 0.0)
    names = {f"n{n}" for n in tried}
    route = scene.router.route(RouteRequest("m", KEYS[number], tried=names, is_continuation=is_continuation), 0.0)
    able = {
        f"n{n}": NodeState(state)
        for n, (_, waiting, state) in enumerate(loads)
        if f"n{n}" not in names and (is_continuation or waiting < MAX_WAITING)
    }
    if not able:
        assert route is NoRoute.FULL
        return
    assert isinstance(route, Route)
    assert route.node.instance_id in able
    if NodeState.READY in able.values():
        assert able[route.node.instance_id] is NodeState.READY


@pytest.mark.parametrize("nodes", [3, 1_000])
@pytest.mark.parametrize("running", [0, 50])
def test_a_route_looks_at_a_few_nodes_at_any_size(nodes: int, running: int) -> None:
    scene = Scene(*[status(f"n{number}") for number in range(nodes - 1)])
    for number in range(0, nodes - 1, 2):
        scene.sources[f"n{number}"].report(running)
    looked: Counter[int] = Counter()
    for place, key in enumerate(KEYS):

        def look(node: NodeStatus, place: int = place) -> bool:
            looked[place] += 1
            return True

        scene.router.route(RouteRequest("m", key, can_serve=look), 0.0)
    assert max(looked.values()) <= 2 * NEAR


def test_a_breaker_opens_after_some_failures_and_twice_as_long_each_time() -> None:
    breaker, now, opened = CircuitBreaker(), 0.0, []
    for _ in range(FAILURE_THRESHOLD - 1):
        breaker.failed(now)
    assert breaker.allows(now)
    for _ in range(8):
        breaker.failed(now)
        assert not breaker.allows(now)
        began = now
        while not breaker.allows(now):
            now += 0.25
        opened.append(now - began)
        breaker.request_sent(now)
        assert not breaker.allows(now)
    assert opened == [1.0, 2.0, 4.0, 8.0, 16.0, MAX_OPEN_S, MAX_OPEN_S, MAX_OPEN_S]
    assert breaker.allows(now + TRIAL_S)  # the trial request never reported its result
    breaker.succeeded()
    assert breaker.is_closed
    breaker.failed(now)
    assert breaker.allows(now)


def test_the_own_engine_has_a_breaker_too_and_a_restarted_one_a_new_breaker() -> None:
    scene = Scene(*peers("ab"))
    for _ in range(10):
        scene.router.failed("me", 100.0)
    assert {scene.chosen(RouteRequest("m", key), 100.1) for key in KEYS} == {"a", "b"}
    assert scene.chosen(RouteRequest("m"), 100.1) != "me"
    scene.renew()
    assert {scene.chosen(RouteRequest("m", key), 100.1) for key in KEYS} == {"a", "b"}
    scene.own = status("me", NodeState.STARTING)
    scene.renew()
    scene.own = status("me")
    scene.renew()
    assert "me" in {scene.chosen(RouteRequest("m", key), 100.2) for key in KEYS}


def broken(scene: Scene, *names: str) -> None:
    for name in names:
        for _ in range(FAILURE_THRESHOLD):
            scene.router.failed(name, 10.0)


def test_with_every_breaker_open_the_least_loaded_node_is_chosen() -> None:
    scene = Scene(*peers("ab"))
    broken(scene, "a", "b", "me")
    scene.sources["a"].report(9)
    scene.router.own_load.set(Load(9, 0, 0.1, 0.03, 1000.0))
    for key in (*KEYS[:20], None):
        route = scene.route(RouteRequest("m", key), 10.1)
        assert (route.node.instance_id, route.reason) == ("b", "last-resort")
    assert scene.chosen(RouteRequest("m", KEYS[0], tried=("b",)), 10.1) in ("a", "me")
    assert scene.router.route(RouteRequest("m", KEYS[0], tried=("a", "b", "me")), 10.1) is NoRoute.FULL


def test_with_every_breaker_open_a_full_engine_stays_full() -> None:
    scene = Scene(*peers("a"))
    broken(scene, "a", "me")
    scene.sources["a"].report(30, MAX_WAITING)
    scene.router.own_load.set(Load(30, MAX_WAITING, 0.1, 0.03, 1000.0))
    assert scene.router.route(RouteRequest("m", KEYS[0]), 10.1) is NoRoute.FULL
    assert scene.route(RouteRequest("m", KEYS[0], is_continuation=True), 10.1).reason == "last-resort"


def test_an_open_breaker_is_the_last_resort_of_a_request_that_waited_for_full_nodes() -> None:
    scene = Scene(*peers("a"))
    broken(scene, "a")
    scene.router.own_load.set(Load(30, MAX_WAITING, 0.1, 0.03, 1000.0))
    assert scene.router.route(RouteRequest("m", KEYS[0]), 10.1) is NoRoute.FULL
    route = scene.route(RouteRequest("m", KEYS[0], last_resort=True), 10.1)
    assert (route.node.instance_id, route.reason) == ("a", "last-resort")


def test_hundreds_of_losses_in_one_moment_open_a_breaker_once() -> None:
    breaker = CircuitBreaker()
    for _ in range(300):
        breaker.failed(5.0)
    assert breaker.allows(5.0 + FIRST_OPEN_S)


def test_a_trial_that_ends_without_a_result_leaves_room_for_another() -> None:
    breaker = CircuitBreaker()
    for _ in range(FAILURE_THRESHOLD):
        breaker.failed(0.0)
    breaker.request_sent(FIRST_OPEN_S)
    assert not breaker.allows(FIRST_OPEN_S)
    breaker.undecided()
    assert breaker.allows(FIRST_OPEN_S)
