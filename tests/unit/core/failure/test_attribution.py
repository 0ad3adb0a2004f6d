"""Whose fault a failed hop is: the module's own table, row by row; and what a request's tries come to."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node_agent.core.failure import attribution
from node_agent.core.failure.attempts import MAX_ASKED, MAX_ENGINES, Answer, Attempts
from node_agent.core.failure.attribution import (
    ENGINE_DEAD,
    Body,
    By,
    Counts,
    Fault,
    Next,
    Verdict,
    is_dead_engine,
    judge_answer,
    judge_event,
    judge_loss,
    read_body,
)

WORDS = st.text(alphabet=st.characters(codec="utf-8"), max_size=20)
JSON = st.recursive(st.none() | WORDS, lambda inner: st.lists(inner) | st.dictionaries(WORDS, inner))
NO_MODEL = b'{"error":{"message":"The model `x` does not exist.","type":"NotFoundError","param":"model"}}'
DEAD = f"{ENGINE_DEAD}. See stack trace (above) for the root cause."


def rows() -> list[list[str]]:
    """The table's rows, by its columns' places."""
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


def judged(by: str, what: str) -> Verdict:
    kind, _, rest = what.partition(" ")
    rest, _, continuation = rest.partition(", ")
    if kind == "lost":
        return judge_loss(By(by), rest)
    if kind == "event":
        return judge_event(event(rest), is_continuation=bool(continuation))
    status, _, body = rest.partition(" ")
    told = Body(body) if body else Body.OTHER
    return judge_answer(By(by), int(status), told, is_continuation=bool(continuation))


def event(what: str) -> bytes:
    if what == "unreadable":
        return b'{"error": 7}'
    message, code = (DEAD, 500) if what == "engine-dead" else ("no", int(what))
    return orjson.dumps({"error": {"message": message, "type": "T", "param": None, "code": code}})


@pytest.mark.parametrize("row", rows(), ids=lambda row: f"{row[0]}: {row[1]}")
def test_the_table_is_what_happens(row: list[str]) -> None:
    by, what, fault, following, counts, why = row
    verdict = judged(by, what)
    told = (verdict.fault.value, verdict.next.value, verdict.counts.value, verdict.why)
    assert told == (fault, following, counts, why)
    assert verdict.reason


def test_the_table_has_every_fault_and_every_end() -> None:
    table = rows()
    assert len(table) > 50
    assert {row[2] for row in table} == {fault.value for fault in Fault}
    assert {row[3] for row in table} == {each.value for each in Next}
    assert {row[4] for row in table} == {each.value for each in Counts}


@given(st.sampled_from(By), st.text(max_size=40))
def test_whatever_a_peer_says_the_words_of_metrics_are_few_and_a_node_is_blamed(by: By, word: str) -> None:
    verdict = judge_loss(by, word)
    assert verdict.why == "other" or len(verdict.why) < 25
    assert verdict.next is not Next.FINAL


@given(st.integers(100, 999), st.sampled_from(Body), st.booleans())
def test_a_peers_own_status_is_never_the_clients(status: int, body: Body, rest: bool) -> None:
    verdict = judge_answer(By.PEER, status, body, is_continuation=rest)
    assert verdict.next is Next.ELSEWHERE
    assert verdict.fault is not Fault.CLIENT


@given(st.integers(400, 499), st.sampled_from(Body))
def test_no_answer_below_500_but_for_locks_and_models_touches_a_breaker(status: int, body: Body) -> None:
    verdict = judge_answer(By.ENGINE, status, body)
    assert verdict.counts is Counts.NO or verdict.why in ("engine-locked", "wrong-model")


@given(st.binary(max_size=300) | JSON.map(lambda value: orjson.dumps({"error": value})))
def test_any_body_is_read(body: bytes) -> None:
    assert read_body(body, has_model=True) in Body
    assert judge_event(body).reason
    assert not is_dead_engine(body) or ENGINE_DEAD.encode() in body


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b'{"error":{"message":"no","type":"BadRequestError","param":null,"code":400}}', Body.ERROR),
        (b'{"type":"error","error":{"type":"BadRequestError","message":"no"}}', Body.ERROR),
        (b'{"detail":"Not Found"}', Body.OTHER),
        (b"Internal Server Error", Body.OTHER),
        (b"", Body.OTHER),
        (b"[]", Body.OTHER),
        (b'{"error":"Unauthorized"}', Body.OTHER),
        (NO_MODEL, Body.NO_SUCH_MODEL),
        (orjson.dumps({"error": {"message": DEAD}}), Body.ENGINE_DEAD),
        (orjson.dumps({"choices": [{"text": DEAD}]}), Body.OTHER),
    ],
)
def test_a_body_is_told_by_its_form(body: bytes, kind: Body) -> None:
    assert read_body(body, has_model=True) is kind


def test_where_no_model_was_asked_for_nothing_is_said_of_one() -> None:
    assert read_body(NO_MODEL, has_model=False) is Body.ERROR


# tries

FAILED = judge_answer(By.ENGINE, 500, Body.ERROR)
WORDLESS = judge_answer(By.ENGINE, 500, Body.OTHER)
REFUSED = judge_answer(By.ENGINE, 400, Body.ERROR)
BUSY = judge_answer(By.ENGINE, 503, Body.ERROR)
LOST = judge_loss(By.ENGINE, "reset")
HANDED_OVER = judge_loss(By.ENGINE, "handoff")
SAID = Answer(500, b'{"error":{"message":"it"}}')


def test_an_error_of_the_request_is_tried_once_more_and_then_passed_on() -> None:
    tries = Attempts()
    assert tries.failed("a", FAILED, SAID)
    assert not tries.failed("b", FAILED, SAID)
    assert tries.answer == SAID
    assert not tries.in_doubt


def test_a_refusal_is_passed_on_at_once() -> None:
    tries = Attempts()
    assert not tries.failed("a", REFUSED, SAID)
    assert tries.answer == SAID


def test_a_loss_between_two_errors_of_the_request_changes_nothing() -> None:
    tries = Attempts()
    assert tries.failed("a", FAILED, SAID)
    assert tries.failed("b", LOST)
    assert not tries.failed("c", LOST)
    assert tries.answer == SAID, "the only answer that there is"


def test_errors_without_words_are_nodes_faults_only_if_another_can() -> None:
    tries = Attempts()
    assert tries.failed("a", WORDLESS, Answer(500, b"oops", b"text/plain"))
    assert (tries.answer, tries.in_doubt) == (None, ["a"])
    assert not tries.failed("b", WORDLESS, Answer(500, b""))
    assert tries.answer is not None
    told = orjson.loads(tries.answer.body)["error"]
    assert (tries.answer.status, told["code"]) == (500, "engine_error")


def test_the_bound_is_on_engines_whatever_they_do() -> None:
    for verdict in (LOST, BUSY):
        tries, asked = Attempts(), 1
        while tries.failed("x", verdict):
            asked += 1
        assert asked == MAX_ENGINES
        assert tries.answer is None
        assert tries.were_busy is (verdict is BUSY)
    tries = Attempts()
    for _ in range(MAX_ASKED - 1):
        assert tries.failed("x", HANDED_OVER), "nothing was lost"
    assert not tries.failed("x", HANDED_OVER)


def test_failures_are_told_in_words() -> None:
    tries = Attempts()
    for _ in range(3):
        tries.failed("x", BUSY)
    assert tries.in_words("engines") == "3 engines (engine-busy, engine-busy, engine-busy)"
