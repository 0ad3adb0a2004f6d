"""Test attribution by the module's own table, row by row; and the outcome of a request's attempts."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node_agent.core.failure import attribution
from node_agent.core.failure.attempts import MAX_ENGINES, MAX_REQUESTS, Attempts, EngineResponse
from node_agent.core.failure.attribution import (
    ENGINE_DEAD,
    BodyKind,
    BreakerEffect,
    Fault,
    NextStep,
    Origin,
    Verdict,
    classify_answer,
    classify_body,
    classify_event,
    classify_loss,
    reports_dead_engine,
)
from node_agent.core.failure.loss import LossReason, loss_from_code
from node_agent.core.failure.report import parse_loss

WORDS = st.text(alphabet=st.characters(codec="utf-8"), max_size=20)
JSON = st.recursive(st.none() | WORDS, lambda inner: st.lists(inner) | st.dictionaries(WORDS, inner))
NO_MODEL = b'{"error":{"message":"The model `x` does not exist.","type":"NotFoundError","param":"model"}}'
DEAD = f"{ENGINE_DEAD}. See stack trace (above) for the root cause."


def rows() -> list[list[str]]:
    """Return the table's rows, split at its columns."""
    lines = (attribution.__doc__ or "").splitlines()
    rule = next(line for line in lines if line.strip().startswith("------"))
    starts = [at for at, char in enumerate(rule) if char == "-" and rule[at - 1] == " "]
    first = lines.index(rule) + 1
    found = []
    for line in lines[first:]:
        if not line.strip():
            break
        found.append([line[a:b].strip() for a, b in zip(starts, [*starts[1:], None], strict=True)])
    return found


def verdict_of(by: str, what: str) -> Verdict:
    kind, _, rest = what.partition(" ")
    rest, _, continuation = rest.partition(", ")
    if kind == "lost":
        return classify_loss(Origin(by), loss_from_code(rest).reason)
    if kind == "event":
        return classify_event(event(rest), is_continuation=bool(continuation))
    status, _, body = rest.partition(" ")
    body_kind = BodyKind(body) if body else BodyKind.OTHER
    return classify_answer(Origin(by), int(status), body_kind, is_continuation=bool(continuation))


def event(what: str) -> bytes:
    if what == "unreadable":
        return b'{"error": 7}'
    message, code = (DEAD, 500) if what == "engine-dead" else ("no", int(what))
    return orjson.dumps({"error": {"message": message, "type": "T", "param": None, "code": code}})


@pytest.mark.parametrize("row", rows(), ids=lambda row: f"{row[0]}: {row[1]}")
def test_each_row_of_the_table_is_the_verdict(row: list[str]) -> None:
    by, what, fault, following, counts, why = row
    verdict = verdict_of(by, what)
    answered = (verdict.fault.value, verdict.next.value, verdict.breaker.value, verdict.code)
    assert answered == (fault, following, counts, why)
    assert verdict.reason


def test_the_table_has_every_fault_and_every_end() -> None:
    table = rows()
    assert len(table) > 50
    assert {row[2] for row in table} == {fault.value for fault in Fault}
    assert {row[3] for row in table} == {each.value for each in NextStep}
    assert {row[4] for row in table} == {each.value for each in BreakerEffect}


@given(st.sampled_from(Origin), st.text(max_size=40))
def test_any_loss_of_a_peer_has_a_short_code_and_is_never_final(by: Origin, word: str) -> None:
    verdict = classify_loss(by, parse_loss(word).reason)
    assert verdict.code == "other" or len(verdict.code) < 25
    assert verdict.next is not NextStep.FINAL


@given(st.integers(100, 999), st.sampled_from(BodyKind), st.booleans())
def test_a_peers_own_status_is_never_the_clients(status: int, body: BodyKind, rest: bool) -> None:
    verdict = classify_answer(Origin.PEER, status, body, is_continuation=rest)
    assert verdict.next is NextStep.ELSEWHERE
    assert verdict.fault is not Fault.CLIENT


@given(st.integers(400, 499), st.sampled_from(BodyKind))
def test_no_answer_below_500_but_for_locks_and_models_touches_a_breaker(status: int, body: BodyKind) -> None:
    verdict = classify_answer(Origin.ENGINE, status, body)
    assert verdict.breaker is BreakerEffect.NO or verdict.code in ("engine-locked", "wrong-model")


@given(st.binary(max_size=300) | JSON.map(lambda value: orjson.dumps({"error": value})))
def test_any_body_is_classified(body: bytes) -> None:
    assert classify_body(body, has_model=True) in BodyKind
    assert classify_event(body).reason
    assert not reports_dead_engine(body) or ENGINE_DEAD.encode() in body


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b'{"error":{"message":"no","type":"BadRequestError","param":null,"code":400}}', BodyKind.ERROR),
        (b'{"type":"error","error":{"type":"BadRequestError","message":"no"}}', BodyKind.ERROR),
        (b'{"detail":"Not Found"}', BodyKind.OTHER),
        (b"Internal Server Error", BodyKind.OTHER),
        (b"", BodyKind.OTHER),
        (b"[]", BodyKind.OTHER),
        (b'{"error":"Unauthorized"}', BodyKind.OTHER),
        (NO_MODEL, BodyKind.NO_SUCH_MODEL),
        (orjson.dumps({"error": {"message": DEAD}}), BodyKind.ENGINE_DEAD),
        (orjson.dumps({"choices": [{"text": DEAD}]}), BodyKind.OTHER),
    ],
)
def test_a_body_is_classified_by_its_form(body: bytes, kind: BodyKind) -> None:
    assert classify_body(body, has_model=True) is kind


def test_a_missing_model_is_an_error_if_the_request_names_none() -> None:
    assert classify_body(NO_MODEL, has_model=False) is BodyKind.ERROR


# tries

FAILED = classify_answer(Origin.ENGINE, 500, BodyKind.ERROR)
WITHOUT_MESSAGE = classify_answer(Origin.ENGINE, 500, BodyKind.OTHER)
REFUSED = classify_answer(Origin.ENGINE, 400, BodyKind.ERROR)
BUSY = classify_answer(Origin.ENGINE, 503, BodyKind.ERROR)
LOST = classify_loss(Origin.ENGINE, LossReason.RESET)
HANDED_OVER = classify_loss(Origin.ENGINE, LossReason.HANDOFF)
RESPONSE = EngineResponse(500, b'{"error":{"message":"it"}}')


def test_an_error_of_the_request_is_tried_once_more_and_then_passed_on() -> None:
    tries = Attempts()
    assert tries.record_failure("a", FAILED, RESPONSE)
    assert not tries.record_failure("b", FAILED, RESPONSE)
    assert tries.response == RESPONSE
    assert not tries.in_doubt


def test_a_refusal_is_passed_on_at_once() -> None:
    tries = Attempts()
    assert not tries.record_failure("a", REFUSED, RESPONSE)
    assert tries.response == RESPONSE


def test_a_loss_between_two_errors_of_the_request_does_not_replace_the_answer() -> None:
    tries = Attempts()
    assert tries.record_failure("a", FAILED, RESPONSE)
    assert tries.record_failure("b", LOST)
    assert not tries.record_failure("c", LOST)
    assert tries.response == RESPONSE, "the only answer"


def test_errors_without_a_message_are_the_nodes_fault_only_if_another_node_can() -> None:
    tries = Attempts()
    assert tries.record_failure("a", WITHOUT_MESSAGE, EngineResponse(500, b"oops", b"text/plain"))
    assert (tries.response, tries.in_doubt) == (None, ["a"])
    assert not tries.record_failure("b", WITHOUT_MESSAGE, EngineResponse(500, b""))
    assert tries.response is not None
    answered = orjson.loads(tries.response.body)["error"]
    assert (tries.response.status, answered["code"]) == (500, "engine_error")


def test_the_number_of_engines_is_bounded_for_every_verdict() -> None:
    for verdict in (LOST, BUSY):
        tries, engines = Attempts(), 1
        while tries.record_failure("x", verdict):
            engines += 1
        assert engines == MAX_ENGINES
        assert tries.response is None
        assert tries.all_busy is (verdict is BUSY)
    tries = Attempts()
    for _ in range(MAX_REQUESTS - 1):
        assert tries.record_failure("x", HANDED_OVER), "nothing was lost"
    assert not tries.record_failure("x", HANDED_OVER)


def test_a_summary_names_the_number_of_failures_and_their_codes() -> None:
    tries = Attempts()
    for _ in range(3):
        tries.record_failure("x", BUSY)
    assert tries.summary("engines") == "3 engines (engine-busy, engine-busy, engine-busy)"
