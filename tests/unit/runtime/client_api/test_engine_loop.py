"""The loop over scripted engines: how many, which ones, whose fault a failure is, and what the client then gets."""

from __future__ import annotations

from collections.abc import Callable

import orjson
import pytest

from node_agent.core.failure.attempts import MAX_ENGINES
from node_agent.core.failure.loss import EngineDeath, LossReason
from node_agent.core.openai import sse
from node_agent.runtime.client_api import engine_loop
from node_agent.runtime.engine.client import ENGINE_HEADER
from tests.unit.runtime.client_api.scripted_engines import ROLE, TOKEN, Engines, Part, run


def test_the_number_of_engines_is_bounded_and_the_end_is_an_error() -> None:
    engines = Engines(lambda: Part(ROLE, TOKEN))
    status, body, line = run(engines, peers=9)
    assert (status, line) == (200, 200)
    assert len(engines.opened) == len(set(engines.opened)) == MAX_ENGINES
    assert b'"code":"engine_lost"' in body
    assert b"[DONE]" not in body


def test_a_request_with_state_continues_only_on_engines_whose_self_test_passed() -> None:
    engines = Engines(lambda: Part(ROLE, TOKEN))
    run(engines, peers=9, able=[4, 7], seed=1, temperature=1)
    assert engines.opened[0] == "i-0"
    assert set(engines.opened[1:]) == {"i-4", "i-7"}
    assert len(engines.opened) == MAX_ENGINES


def test_without_a_capable_engine_the_client_gets_the_reason_at_once() -> None:
    engines = Engines(lambda: Part(ROLE, TOKEN))
    _, body, _ = run(engines, peers=9, seed=1, temperature=1)
    assert engines.opened == ["i-0"]
    assert b'"code":"continuation_impossible"' in body
    assert b"a seed: its random numbers would start again" in body
    assert b"[DONE]" not in body


def test_before_the_first_byte_a_loss_of_all_engines_is_a_503() -> None:
    status, body, line = run(Engines(lambda: Part(status=500, stream=False)), peers=9)
    assert (status, line) == (503, 503)
    assert b'"code":"engine_lost"' in body


def test_a_refusal_of_the_request_is_passed_on_and_not_retried() -> None:
    engines = Engines(lambda: Part(b'{"error":{}}', status=400, stream=False))
    assert run(engines, peers=9) == (400, b'{"error":{}}', 400)
    assert len(engines.opened) == 1


def test_a_lone_node_is_not_requested_twice_and_the_client_gets_no_ready_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_loop, "WAIT_FOR_NODE_S", 0.2)
    engines = Engines(lambda: Part(ROLE, TOKEN))
    status, body, _ = run(engines, peers=0)
    assert status == 200
    assert engines.opened == ["i-0"]
    assert b'"code":"no_ready_node"' in body


# whose fault it is


def answer_of(status: int, body: bytes, *, marked: bool = True) -> Callable[[], Part]:
    """An engine's own answer; marked: as the peer API marks it."""

    def play() -> Part:
        part = Part(body, status=status, stream=False)
        part.headers = {ENGINE_HEADER: b"1"} if marked else {}
        return part

    return play


def in_turn(*plays: Callable[[], Part]) -> Engines:
    left = list(plays)

    def play() -> Part:
        return left.pop(0)()

    return Engines(play)


ERROR = b'{"error":{"message":"it","type":"InternalServerError","param":null,"code":500}}'
TYPO = b'{"error":{"message":"no","type":"BadRequestError","param":"x","code":400}}'
WHOLE = b'data: {"id":"e","choices":[{"index":0,"delta":{"content":"a"},"finish_reason":"stop","token_ids":[7]}]}\n\n'


@pytest.mark.parametrize(
    ("status", "code"), [(401, "not_a_peer"), (404, "unknown_route"), (429, "x"), (503, "x"), (500, "x"), (413, "x")]
)
def test_a_peer_doors_own_status_is_never_the_clients(status: int, code: str) -> None:
    refusal = answer_of(
        status, b'{"error":{"message":"this door is for peers","code":"%b"}}' % code.encode(), marked=False
    )
    engines = in_turn(lambda: Part(ROLE), refusal, lambda: Part(ROLE, WHOLE, then=LossReason.EOF))
    got, body, _ = run(engines, peers=3)
    assert (got, len(engines.opened)) == (200, 3)
    assert b'"finish_reason":"stop"' in body
    assert b"[DONE]" in body


def test_an_error_of_the_request_gets_one_more_engine_and_is_then_passed_on() -> None:
    engines = in_turn(answer_of(500, ERROR), answer_of(500, ERROR))
    assert run(engines, peers=9) == (500, ERROR, 500)
    assert len(engines.opened) == 2


def test_without_another_engine_the_error_of_the_only_one_is_passed_on() -> None:
    assert run(in_turn(answer_of(500, ERROR)), peers=0) == (500, ERROR, 500)


def test_an_error_without_a_message_gets_openais_form() -> None:
    engines = in_turn(answer_of(500, b"Internal Server Error"), answer_of(502, b""))
    status, body, _ = run(engines, peers=9)
    assert (status, orjson.loads(body)["error"]["code"]) == (500, "engine_error")


def test_an_error_event_that_vllm_sends_behind_its_head_is_passed_on_unchanged() -> None:
    engines = in_turn(lambda: Part(b"data: %b\n\n" % TYPO, sse.message(sse.DONE), then=LossReason.EOF))
    status, body, _ = run(engines, peers=9)
    assert (status, len(engines.opened)) == (200, 1)
    assert body == b"data: %b\n\ndata: [DONE]\n\n" % TYPO


def test_an_error_event_of_the_request_gets_one_more_engine() -> None:
    engines = in_turn(*[lambda: Part(b"data: %b\n\n" % ERROR)] * 3)
    _, body, _ = run(engines, peers=9)
    assert len(engines.opened) == 2
    assert ERROR in body


def test_a_refused_continuation_is_not_passed_on_as_a_refusal_of_the_request() -> None:
    engines = in_turn(lambda: Part(ROLE, TOKEN), answer_of(400, TYPO), lambda: Part(ROLE, then=LossReason.RESET))
    _, body, _ = run(engines, peers=9)
    assert len(engines.opened) == 3
    assert b'"code":"engine_lost"' in body
    assert b"reset, refused-continuation, reset" in body


def test_engines_without_room_are_a_429() -> None:
    engines = in_turn(*[answer_of(503, b'{"error":{"message":"busy"}}')] * 3)
    status, body, _ = run(engines, peers=9)
    assert (status, orjson.loads(body)["error"]["code"]) == (429, "fleet_full")


def test_a_request_that_ends_two_engines_ends_no_third() -> None:
    word = sse.named_event(b"synkti-lost", b"engine-died 4 alone")
    engines = in_turn(lambda: Part(then=EngineDeath(LossReason.ENGINE_DIED, "1", alone=True)), lambda: Part(word))
    _, body, _ = run(engines, peers=9)
    assert len(engines.opened) == 2
    assert b'"code":"request_kills_engines"' in body


def test_a_request_beside_the_one_that_ended_the_engines_continues() -> None:
    engines = in_turn(
        lambda: Part(then=EngineDeath(LossReason.ENGINE_DIED, "1", alone=False)),
        lambda: Part(then=EngineDeath(LossReason.ENGINE_DIED, "1", alone=False)),
        lambda: Part(ROLE, WHOLE, then=LossReason.EOF),
    )
    _, body, _ = run(engines, peers=9)
    assert b'"finish_reason":"stop"' in body
