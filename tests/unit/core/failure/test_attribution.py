"""Test attribution by the module's own table, row by row."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node_agent.core.failure import attribution
from node_agent.core.failure.attribution import classify_answer, classify_event, classify_loss
from node_agent.core.failure.error_body import ENGINE_DEAD, BodyKind
from node_agent.core.failure.loss import loss_from_code
from node_agent.core.failure.report import parse_loss
from node_agent.core.failure.verdict import BreakerEffect, Fault, NextStep, Origin, Verdict

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
