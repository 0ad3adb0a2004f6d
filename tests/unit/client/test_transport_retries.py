"""Test what the transports retry at other nodes, how often, and which responses the application gets."""

from __future__ import annotations

import contextlib

import pytest

from synkti_client import NoNodeAnswers, RequestLost, RetryPolicy, httpx
from synkti_client._attempts import Attempts, Bounds
from synkti_client._nodes import Nodes
from tests.unit.client.scripted import ANSWER, NODES, QUICK, WHOLE, Pieces, Script, both, error, post


@both
def test_all_nodes_down_is_one_error_that_names_them_and_what_to_look_at(kind: str) -> None:
    def down(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("Connection refused")

    with pytest.raises(NoNodeAnswers, match=r"3 nodes.*http://.:1: no connection: Connection refused.*curl") as raised:
        post(Script(down), WHOLE, kind)
    assert isinstance(raised.value, httpx.ConnectError), "what code that knows no Synkti expects"


def test_time_without_any_node_is_bounded_far_below_the_patience_with_a_stream() -> None:
    now = 0.0

    def attempts(bounds: Bounds) -> float:
        nonlocal now
        now = 0.0
        tries = Attempts(Nodes(NODES), RetryPolicy(), bounds, lambda: now, lambda: 1.0)
        with contextlib.suppress(httpx.TransportError):
            while True:
                node, wait_s = tries.next()
                now += wait_s
                tries.on_failure(node, httpx.ConnectError(""))
        return now

    assert 15.0 < attempts(Bounds()) < 17.0
    assert 60.0 < attempts(Bounds(is_resuming=True)) < 62.0
    assert attempts(Bounds(single_round=True)) == 0.0
    assert attempts(Bounds(deadline=3.0)) == 3.0


def test_a_client_that_is_slow_itself_tries_several_nodes_before_it_gives_up() -> None:
    """On a busy machine one attempt takes seconds: two of fourteen nodes are no reason to report that all are down."""
    now, tried = 0.0, []
    tries = Attempts(Nodes([f"http://n{n}:1" for n in range(14)]), RetryPolicy(), clock=lambda: now, rng=lambda: 1.0)
    for _ in range(5):
        tried.append(tries.next()[0])
        now += 8.0
        tries.on_failure(tried[-1], httpx.ConnectTimeout(""))
    with pytest.raises(NoNodeAnswers, match="14 nodes are known, 5 attempts were made in 40 s"):
        tries.next()
    assert len(set(tried)) == 5


@both
def test_what_an_sdk_repeats_is_asked_of_each_node_once(kind: str) -> None:
    """Its first attempt had all the patience; three times that would be minutes."""

    def down(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("Connection refused")

    script = Script(down)
    with pytest.raises(NoNodeAnswers):
        post(script, WHOLE, kind, headers={"x-stainless-retry-count": "1"})
    assert len(script.asked) == len(NODES)


@both
def test_a_fault_that_may_be_the_requests_own_is_tried_at_one_other_node(kind: str) -> None:
    for status, code in ((500, None), (500, "internal_error"), (503, "engine_lost"), (502, None), (503, "poison")):
        script = Script(lambda request, status=status, code=code: error(status, code))  # type: ignore[misc]
        assert post(script, WHOLE, kind).status_code == status
        assert len(script.asked) == 2


@both
def test_an_answer_that_a_node_calls_final_is_not_asked_for_again(kind: str) -> None:
    script = Script(lambda request: error(500, "engine_error", **{"x-should-retry": "false"}))
    assert post(script, WHOLE, kind).status_code == 500
    assert len(script.asked) == 1


@both
def test_a_fault_that_a_node_calls_final_is_the_answer(kind: str) -> None:
    script = Script(lambda request: error(500, "engine_error", **{"x-should-retry": "false"}))
    assert post(script, WHOLE, kind).status_code == 500
    assert len(script.asked) == 1


@both
def test_a_node_that_cannot_do_it_now_is_asked_again_and_its_last_word_is_the_applications(kind: str) -> None:
    script = Script(lambda request: error(503, "no_ready_node", **{"retry-after": "2"}))
    policy = RetryPolicy(max_attempts=5, initial_backoff_s=0.0, max_backoff_s=0.0, max_retry_s=0.0)
    answer = post(script, WHOLE, kind, policy)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "no_ready_node")


@both
@pytest.mark.parametrize(("status", "code"), [(429, "fleet_full"), (400, "no_ready_node"), (404, None), (401, None)])
def test_any_other_answer_is_the_applications_at_once(kind: str, status: int, code: str | None) -> None:
    script = Script(lambda request: error(status, code))
    assert post(script, WHOLE, kind).status_code == status
    assert len(script.asked) == 1


@both
def test_a_code_in_the_text_of_an_error_is_no_code(kind: str) -> None:
    document = {"error": {"message": "too_many_streams, no_ready_node", "code": "rate_limited"}}
    script = Script(lambda request: httpx.Response(429, json=document))
    assert post(script, WHOLE, kind).status_code == 429
    assert len(script.asked) == 1


def test_a_node_says_when_it_may_be_asked_again_within_bounds() -> None:
    attempts = Attempts(Nodes(NODES), RetryPolicy(), clock=lambda: 0.0, rng=lambda: 0.0)
    for after_s in (1.5, 3.0, 0.0):
        node, wait_s = attempts.next()
        assert wait_s == 0.0, "there are nodes that were not asked"
        attempts.on_refusal(node, httpx.ReadError("503"), after_s)
    assert attempts.next()[1] == 3.0


@both
def test_a_request_that_is_lost_with_node_after_node_is_given_up(kind: str) -> None:
    """Each of them may have generated most of it in vain."""

    def dies(request: httpx.Request) -> httpx.Response:
        return httpx.Response(
            200, headers={"content-type": "application/json"}, stream=Pieces(b"{", httpx.ReadError("reset"))
        )

    script = Script(dies)
    with pytest.raises(RequestLost, match="the connection broke: reset"):
        post(script, WHOLE, kind)
    assert len(script.asked) == QUICK.max_losses + 1


@both
def test_an_answer_that_breaks_in_its_middle_is_asked_for_elsewhere(kind: str) -> None:
    def once(request: httpx.Request) -> httpx.Response:
        if len(script.asked) > 1:
            return httpx.Response(200, json=ANSWER)
        return httpx.Response(
            200, headers={"content-type": "application/json"}, stream=Pieces(b"{", httpx.ReadError("reset"))
        )

    script = Script(once)
    assert post(script, WHOLE, kind).json() == ANSWER
    assert len({request.url.host for request in script.asked}) == 2


@both
def test_a_request_that_cannot_be_sent_is_no_nodes_fault(kind: str) -> None:
    def unsendable(request: httpx.Request) -> httpx.Response:
        raise httpx.LocalProtocolError("illegal header")

    script = Script(unsendable)
    with pytest.raises(httpx.LocalProtocolError):
        post(script, WHOLE, kind)
    assert len(script.asked) == 1


@both
def test_bytes_beyond_ascii_in_a_header_reach_the_node_as_they_are(kind: str) -> None:
    script = Script(lambda request: httpx.Response(200, json=ANSWER))
    post(script, WHOLE, kind, headers=[(b"x-a", b"b\xff"), (b"x-b", "ü".encode())])
    sent = dict(script.asked[0].headers.raw)
    assert (sent[b"x-a"], sent[b"x-b"]) == (b"b\xff", "ü".encode())
