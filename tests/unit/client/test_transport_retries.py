"""Test what the transports retry at other nodes, how often, and which responses the application gets."""

from __future__ import annotations

import contextlib

import pytest

from synkti_client import NoNodeAnswers, RequestLost, RetryPolicy, httpx
from synkti_client._attempts import Attempts, Bounds
from synkti_client._nodes import Nodes
from tests.unit.client.scripted import ANSWER, NODES, QUICK, WHOLE, Pieces, Script, both, error, post


@both
def test_all_nodes_down_is_one_error_that_names_them_and_the_places_to_look_at(kind: str) -> None:
    def down(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("Connection refused")

    with pytest.raises(NoNodeAnswers, match=r"3 nodes.*http://.:1: no connection: Connection refused.*curl") as raised:
        post(Script(down), WHOLE, kind)
    assert isinstance(raised.value, httpx.ConnectError), "the error that code without Synkti handles"


def test_time_without_any_node_is_bounded_far_below_the_time_for_a_stream() -> None:
    now = 0.0

    def attempts(bounds: Bounds, answered_s_ago: float = 1e6) -> float:
        nonlocal now
        now, nodes = 0.0, Nodes(NODES)
        nodes.mark_responsive(NODES[0], now - answered_s_ago)
        tries = Attempts(nodes, RetryPolicy(), bounds, lambda: now, lambda: 1.0)
        with contextlib.suppress(httpx.TransportError):
            while True:
                now += tries.begin()
                node = tries.choose()
                tries.on_failure(node, httpx.ConnectError(""))
        return now

    assert 15.0 < attempts(Bounds()) < 17.0
    assert 60.0 < attempts(Bounds(is_resuming=True)) < 62.0
    assert 60.0 < attempts(Bounds(), answered_s_ago=50.0) < 62.0, "the fleet works, or worked a moment ago"
    assert attempts(Bounds(single_round=True)) == 0.0
    assert attempts(Bounds(deadline=3.0)) == 3.0


def test_a_client_that_is_slow_itself_tries_several_nodes_before_it_gives_up() -> None:
    """On a busy machine one attempt takes seconds: two of fourteen nodes are no reason to report that all are down."""
    now, tried = 0.0, []
    tries = Attempts(Nodes([f"http://n{n}:1" for n in range(14)]), RetryPolicy(), clock=lambda: now, rng=lambda: 1.0)
    for _ in range(5):
        tries.begin()
        tried.append(tries.choose())
        now += 8.0
        tries.on_failure(tried[-1], httpx.ConnectTimeout(""))
    with pytest.raises(NoNodeAnswers, match="14 nodes are known, 5 attempts were made in 40 s"):
        tries.begin()
    assert len(set(tried)) == 5


@both
def test_a_retry_by_an_sdk_is_sent_to_each_node_once(kind: str) -> None:
    """Its first attempt had all the patience; three times that would be minutes."""

    def down(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("Connection refused")

    script = Script(down)
    with pytest.raises(NoNodeAnswers):
        post(script, WHOLE, kind, headers={"x-stainless-retry-count": "1"})
    assert len(script.requests) == len(NODES)


@both
def test_an_error_that_may_be_the_requests_own_is_retried_at_one_other_node(kind: str) -> None:
    for status, code in ((500, None), (500, "internal_error"), (503, "engine_lost"), (502, None), (503, "poison")):
        script = Script(lambda request, status=status, code=code: error(status, code))  # type: ignore[misc]
        assert post(script, WHOLE, kind).status_code == status
        assert len(script.requests) == 2


@both
def test_an_error_marked_final_is_not_retried(kind: str) -> None:
    script = Script(lambda request: error(500, "engine_error", **{"x-should-retry": "false"}))
    assert post(script, WHOLE, kind).status_code == 500
    assert len(script.requests) == 1


@both
def test_an_error_marked_final_is_the_answer(kind: str) -> None:
    script = Script(lambda request: error(500, "engine_error", **{"x-should-retry": "false"}))
    assert post(script, WHOLE, kind).status_code == 500
    assert len(script.requests) == 1


@both
def test_a_node_that_is_not_ready_is_retried_and_its_last_answer_passed_on(kind: str) -> None:
    script = Script(lambda request: error(503, "no_ready_node", **{"retry-after": "2"}))
    policy = RetryPolicy(max_attempts=5, initial_backoff_s=0.0, max_backoff_s=0.0, max_retry_s=0.0)
    answer = post(script, WHOLE, kind, policy)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "no_ready_node")


@both
@pytest.mark.parametrize(("status", "code"), [(429, "fleet_full"), (400, "no_ready_node"), (404, None), (401, None)])
def test_any_other_answer_is_passed_on_at_once(kind: str, status: int, code: str | None) -> None:
    script = Script(lambda request: error(status, code))
    assert post(script, WHOLE, kind).status_code == status
    assert len(script.requests) == 1


@both
def test_a_code_in_the_text_of_an_error_is_no_code(kind: str) -> None:
    document = {"error": {"message": "too_many_streams, no_ready_node", "code": "rate_limited"}}
    script = Script(lambda request: httpx.Response(429, json=document))
    assert post(script, WHOLE, kind).status_code == 429
    assert len(script.requests) == 1


def test_retry_after_of_a_node_delays_its_next_request_within_bounds() -> None:
    attempts = Attempts(Nodes(NODES), RetryPolicy(), clock=lambda: 0.0, rng=lambda: 0.0)
    for after_s in (1.5, 3.0, 0.0):
        assert attempts.begin() == 0.0, "other nodes were not tried"
        attempts.on_refusal(attempts.choose(), httpx.ReadError("503"), after_s)
    assert attempts.begin() == 3.0


@both
def test_a_request_lost_with_node_after_node_is_given_up(kind: str) -> None:
    """Each of them may have generated most of it in vain."""

    def dies(request: httpx.Request) -> httpx.Response:
        return httpx.Response(
            200, headers={"content-type": "application/json"}, stream=Pieces(b"{", httpx.ReadError("reset"))
        )

    script = Script(dies)
    with pytest.raises(RequestLost, match="the connection broke: reset"):
        post(script, WHOLE, kind)
    assert len(script.requests) == QUICK.max_losses + 1


@both
def test_an_answer_that_breaks_in_the_middle_is_requested_from_another_node(kind: str) -> None:
    def once(request: httpx.Request) -> httpx.Response:
        if len(script.requests) > 1:
            return httpx.Response(200, json=ANSWER)
        return httpx.Response(
            200, headers={"content-type": "application/json"}, stream=Pieces(b"{", httpx.ReadError("reset"))
        )

    script = Script(once)
    assert post(script, WHOLE, kind).json() == ANSWER
    assert len({request.url.host for request in script.requests}) == 2


@both
def test_a_request_that_cannot_be_sent_is_not_retried(kind: str) -> None:
    def unsendable(request: httpx.Request) -> httpx.Response:
        raise httpx.LocalProtocolError("illegal header")

    script = Script(unsendable)
    with pytest.raises(httpx.LocalProtocolError):
        post(script, WHOLE, kind)
    assert len(script.requests) == 1


@both
def test_bytes_beyond_ascii_in_a_header_reach_the_node_as_they_are(kind: str) -> None:
    script = Script(lambda request: httpx.Response(200, json=ANSWER))
    post(script, WHOLE, kind, headers=[(b"x-a", b"b\xff"), (b"x-b", "ü".encode())])
    sent = dict(script.requests[0].headers.raw)
    assert (sent[b"x-a"], sent[b"x-b"]) == (b"b\xff", "ü".encode())
