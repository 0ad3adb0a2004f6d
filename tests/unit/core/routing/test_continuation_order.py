"""Test the order in which engines are preferred for a continuation."""

from __future__ import annotations

import pytest

from node_agent.contract.states import NodeState
from node_agent.core.node.status import NodeStatus, Pool
from node_agent.core.routing.continuation_order import continuation_requests, retry_delay_s
from node_agent.core.routing.router import RouteRequest

ROUTING = RouteRequest("m", key=7, by_session=True, is_continuation=True)


def status(name: str, zone: str = "a") -> NodeStatus:
    return NodeStatus(name, f"{name}:1", f"{name}:2", NodeState.READY, Pool(zone, "g5"), "m", 1)


def able(_: NodeStatus) -> bool:
    return True


def test_new_engines_come_first_then_earlier_ones_then_those_that_cannot_continue() -> None:
    tried = [status("i-1"), status("i-2"), status("i-3")]
    found = [(request.tried, request.can_serve) for request in continuation_requests(ROUTING, tried, able, None)]
    assert found == [(["i-1", "i-2", "i-3"], able), (["i-3"], able), (["i-3"], None)]


def test_the_pool_of_the_last_loss_is_avoided_and_the_rest_of_the_request_stays() -> None:
    tried = [status("i-1", "a"), status("i-2", "b")]
    for request in continuation_requests(ROUTING, tried, able, "i-9"):
        assert (request.avoid, request.handoff_target) == (Pool("b", "g5"), "i-9")
        assert (request.model, request.key, request.by_session, request.is_continuation) == ("m", 7, True, True)


def test_a_restored_stream_has_no_engine_to_avoid() -> None:
    requests = list(continuation_requests(ROUTING, [], able, None))
    assert [(list(request.tried), request.avoid) for request in requests] == [([], None)] * 3


@pytest.mark.parametrize(("name", "delay_s"), [("i-1", 1.0), ("i-2", 1.0), ("i-3", 0.0)])
def test_only_an_engine_that_was_tried_has_to_recover_first(name: str, delay_s: float) -> None:
    assert retry_delay_s(name, [status("i-1"), status("i-2")]) == delay_s


def test_engines_get_more_time_to_recover_with_each_attempt() -> None:
    tried = [status("i-1"), status("i-2")]
    assert [retry_delay_s("i-1", tried * times) for times in (1, 2, 3)] == [1.0, 2.0, 3.0]
