"""Test the outcome of a request's attempts."""

from __future__ import annotations

import orjson

from node_agent.core.failure.attempts import MAX_ENGINES, MAX_REQUESTS, Attempts, EngineResponse
from node_agent.core.failure.attribution import classify_answer, classify_loss
from node_agent.core.failure.error_body import BodyKind
from node_agent.core.failure.loss import LossReason
from node_agent.core.failure.verdict import Origin

FAILED = classify_answer(Origin.ENGINE, 500, BodyKind.ERROR)
WITHOUT_MESSAGE = classify_answer(Origin.ENGINE, 500, BodyKind.OTHER)
REFUSED = classify_answer(Origin.ENGINE, 400, BodyKind.ERROR)
BUSY = classify_answer(Origin.ENGINE, 503, BodyKind.ERROR)
LOST = classify_loss(Origin.ENGINE, LossReason.RESET)
HANDED_OVER = classify_loss(Origin.ENGINE, LossReason.HANDOFF)
RESPONSE = EngineResponse(500, b'{"error":{"message":"it"}}')


def test_an_error_of_the_request_is_tried_once_more_and_then_passed_on() -> None:
    tries = Attempts("/v1/completions")
    assert tries.record_failure("a", FAILED, RESPONSE)
    assert not tries.record_failure("b", FAILED, RESPONSE)
    assert tries.response == RESPONSE
    assert not tries.in_doubt


def test_a_refusal_is_passed_on_at_once() -> None:
    tries = Attempts("/v1/completions")
    assert not tries.record_failure("a", REFUSED, RESPONSE)
    assert tries.response == RESPONSE


def test_a_loss_between_two_errors_of_the_request_does_not_replace_the_answer() -> None:
    tries = Attempts("/v1/completions")
    assert tries.record_failure("a", FAILED, RESPONSE)
    assert tries.record_failure("b", LOST)
    assert not tries.record_failure("c", LOST)
    assert tries.response == RESPONSE, "the only answer"


def test_errors_without_a_message_are_the_nodes_fault_only_if_another_node_can() -> None:
    tries = Attempts("/v1/completions")
    assert tries.record_failure("a", WITHOUT_MESSAGE, EngineResponse(500, b"oops", b"text/plain"))
    assert (tries.response, tries.in_doubt) == (None, ["a"])
    assert not tries.record_failure("b", WITHOUT_MESSAGE, EngineResponse(500, b""))
    assert tries.response is not None
    answered = orjson.loads(tries.response.body)["error"]
    assert (tries.response.status, answered["code"]) == (500, "engine_error")


def test_an_error_of_ours_has_the_form_of_its_routes_clients() -> None:
    tries = Attempts("/v1/messages")
    for _ in range(2):
        tries.record_failure("a", WITHOUT_MESSAGE, EngineResponse(500, b""))
    assert tries.response is not None
    answered = orjson.loads(tries.response.body)
    assert (answered["type"], answered["error"]["type"]) == ("error", "api_error")


def test_the_number_of_engines_is_bounded_for_every_verdict() -> None:
    for verdict in (LOST, BUSY):
        tries, engines = Attempts("/v1/completions"), 1
        while tries.record_failure("x", verdict):
            engines += 1
        assert engines == MAX_ENGINES
        assert tries.response is None
        assert tries.all_busy is (verdict is BUSY)
    tries = Attempts("/v1/completions")
    for _ in range(MAX_REQUESTS - 1):
        assert tries.record_failure("x", HANDED_OVER), "nothing was lost"
    assert not tries.record_failure("x", HANDED_OVER)


def test_a_summary_names_the_number_of_failures_and_their_codes() -> None:
    tries = Attempts("/v1/completions")
    for _ in range(3):
        tries.record_failure("x", BUSY)
    assert tries.summary("engines") == "3 engines (engine-busy, engine-busy, engine-busy)"
