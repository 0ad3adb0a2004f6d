"""Whom a node may choose, as its peers come, are doubted and go."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from local.lone_node import add_peer
from node_agent.contract.states import NodeState
from node_agent.core.failure.attribution import classify_answer, classify_loss
from node_agent.core.failure.error_body import BodyKind
from node_agent.core.failure.loss import LossReason
from node_agent.core.failure.verdict import Origin
from node_agent.core.membership import PeerRequestFailed
from node_agent.core.node.status import Load
from node_agent.core.routing.router import Route, RouteRequest
from node_agent.runtime.node.context import NodeContext
from tests.unit.runtime.a_node import make_node, status_of


def run_scenario(story: Callable[[NodeContext], None], peers: int = 2) -> None:
    async def run() -> None:
        story(make_node(peers))

    asyncio.run(run())


def doubt(node: NodeContext, name: str) -> None:
    """Report a refused connection to the peer."""
    node.gossip.handle(PeerRequestFailed(node.gossip.monotonic(), name, LossReason.REFUSED))


def chosen(node: NodeContext, model: str = "m", **fields: object) -> str:
    route = node.route(RouteRequest(model, **fields))  # type: ignore[arg-type] # the test names fields
    return route.node.instance_id if isinstance(route, Route) else route.value


def test_a_peer_that_refuses_a_connection_is_not_chosen_from_then_on() -> None:
    def story(node: NodeContext) -> None:
        assert {chosen(node, key=key << 56) for key in range(256)} == {"i-0", "i-1", "i-2"}
        node.on_connection_lost("i-1", LossReason.REFUSED)
        assert {chosen(node, key=key << 56) for key in range(256)} == {"i-0", "i-2"}
        assert [status.instance_id for status in node.present] == ["i-2", "i-1"]

    run_scenario(story)


def test_a_suspect_serves_if_no_other_node_has_its_model() -> None:
    def story(node: NodeContext) -> None:
        add_peer(node, status_of(7, model="rare"))
        doubt(node, "i-7")
        doubt(node, "i-1")
        assert chosen(node, "rare") == "i-7"
        assert {chosen(node, key=key << 56) for key in range(256)} == {"i-0", "i-2"}

    run_scenario(story)


def test_a_node_without_its_engine_serves_nothing_and_routes_to_others() -> None:
    def story(node: NodeContext) -> None:
        node.set_state(NodeState.DRAINING)
        assert node.status().to_json()["model"] == ""
        assert chosen(node) in ("i-1", "i-2")
        assert node.models() == {"m"}

    run_scenario(story)


def test_only_a_failure_of_the_node_opens_its_breaker() -> None:
    def story(node: NodeContext) -> None:
        node.set_state(NodeState.STARTING)
        of_no_node = [
            classify_loss(Origin.ENGINE, LossReason.HANDOFF),
            classify_loss(Origin.ENGINE, LossReason.ENGINE_DIED),
            classify_answer(Origin.ENGINE, 400, BodyKind.ERROR),
            classify_answer(Origin.ENGINE, 500, BodyKind.ERROR),
            classify_answer(Origin.ENGINE, 500, BodyKind.OTHER),
            classify_answer(Origin.ENGINE, 503, BodyKind.ERROR),
            classify_answer(Origin.PEER, 429, BodyKind.ERROR),
        ]
        for verdict in of_no_node * 3:
            node.on_request_failed("i-1", verdict)
        assert reason(node) != "last-resort"
        for _ in range(3):
            node.on_request_failed("i-1", classify_loss(Origin.ENGINE, LossReason.RESET))
        assert reason(node) == "last-resort"
        node.on_request_succeeded("i-1")
        assert reason(node) != "last-resort"
        for _ in range(3):
            node.on_others_failed(["i-1"])
        assert reason(node) == "last-resort"

    run_scenario(story, peers=1)


def reason(node: NodeContext) -> str:
    """Return why the route chose i-1, the only ready node."""
    route = node.route(RouteRequest("m", is_continuation=True))
    assert isinstance(route, Route)
    return route.reason


def test_a_node_reports_the_load_of_its_own_engine() -> None:
    def story(node: NodeContext) -> None:
        load = Load(3, 1, 0.5, 0.02, 0.0)
        node.set_load(load)
        assert node.load_of("i-0") == load
        assert node.load_of("i-1").in_flight == 0

    run_scenario(story)
