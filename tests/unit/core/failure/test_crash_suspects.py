"""Test crash suspects: what counts as one request, which are suspected, and which are refused."""

from __future__ import annotations

import signal
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node_agent.core.engine.lifetime import EngineLifetime, may_indicate_death, reports_death, starts_answer
from node_agent.core.failure.crash_suspects import RETENTION_S, SuspectStatus, SuspectTable
from node_agent.core.failure.loss import EngineDeath, LossReason
from node_agent.core.openai.request_digest import request_digest

CHAT: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "the end"}], "max_tokens": 5}
P, B = b"p" * 16, b"b" * 16

# what is one request


@pytest.mark.parametrize(
    "same",
    [
        {**CHAT, "stream": True},
        {**CHAT, "stream": True, "stream_options": {"include_usage": True}, "return_token_ids": True},
        {**CHAT, "request_id": "r", "user": "u", "metadata": {"a": "b"}, "priority": 3, "cache_salt": "s"},
        dict(reversed(CHAT.items())),
        {**CHAT, "seed": None, "stop": None},
        {**CHAT, "vllm_xargs": {"synkti_apart": 1}},
        {**CHAT, "messages": [{"role": "user", "content": " the\n\tend  "}]},
    ],
    ids=["stream", "usage", "names", "order", "nulls", "own", "white space"],
)
def test_the_same_request_has_the_same_content(same: dict[str, Any]) -> None:
    raw = orjson.dumps(CHAT)
    assert request_digest(raw) == request_digest(CHAT) == request_digest(orjson.dumps(same)) == request_digest(same)
    assert request_digest(orjson.dumps(same, option=orjson.OPT_INDENT_2)) == request_digest(raw)


@pytest.mark.parametrize("more", [{"model": "n"}, {"seed": 1}, {"messages": []}, {"vllm_xargs": {"a": 1}}])
def test_another_request_has_another_content(more: dict[str, Any]) -> None:
    assert request_digest({**CHAT, **more}) != request_digest(CHAT)


def test_a_form_has_the_same_content_with_any_separator() -> None:
    form = b'--%b\r\ncontent-disposition: form-data; name="file"\r\n\r\nabc\r\n--%b--\r\n'
    assert request_digest(form % (b"x1", b"x1")) == request_digest(form % (b"zzz", b"zzz"))
    assert request_digest(form % (b"x1", b"x1")) != request_digest(b"abc")


@given(st.binary(max_size=200))
def test_any_body_has_a_content_or_none(body: bytes) -> None:
    found = request_digest(body)
    assert found is None if not body else found is not None and len(found) == 16


def test_a_body_of_any_depth_has_a_content() -> None:
    deep = b'{"a":' + b"[" * 900 + b"]" * 900 + b"}"
    assert request_digest(deep) is not None
    assert request_digest(deep) == request_digest(deep.replace(b"[[", b"[ ["))


# who is suspected, who is refused


def test_one_death_refuses_nothing_and_an_answer_clears_a_suspect() -> None:
    cases = SuspectTable()
    assert not cases.record_death(P, "a/1", 0.0, alone=True, crashed=True)
    assert cases.status(P, 0.0) is SuspectStatus.SUSPECT
    cases.record_answer(P)
    assert (cases.status(P, 0.0), len(cases)) == (SuspectStatus.CLEAR, 0)
    assert not cases.record_death(P, "b/1", 1.0, alone=True, crashed=True)


def test_two_deaths_refuse_a_request_for_minutes() -> None:
    cases = SuspectTable()
    cases.record_death(P, "a/1", 0.0, alone=False, crashed=True)
    assert cases.record_death(P, "b/1", 1.0, alone=True, crashed=True)
    assert not cases.record_death(P, "c/1", 1.0, alone=True, crashed=True), "reported once"
    cases.record_answer(P)
    assert cases.status(P, RETENTION_S) is SuspectStatus.REFUSED
    assert cases.status(P, 1.0 + RETENTION_S) is SuspectStatus.CLEAR
    assert cases.status(B, 0.0) is SuspectStatus.CLEAR


def test_engines_that_were_stuck_refuse_a_request_only_from_the_third_on() -> None:
    """An engine may hang for reasons of its own."""
    cases = SuspectTable()
    assert not cases.record_death(P, "a/1", 0.0, alone=True, crashed=True)
    assert not cases.record_death(P, "b/1", 0.0, alone=True, crashed=False)
    assert cases.status(P, 0.0) is SuspectStatus.SUSPECT
    assert cases.record_death(P, "c/1", 0.0, alone=True, crashed=False)


def test_a_hundred_equal_requests_at_one_engine_are_one_death() -> None:
    cases = SuspectTable()
    assert not any(cases.record_death(P, "a/1", 0.0, alone=True, crashed=True) for _ in range(100))
    assert cases.status(P, 0.0) is SuspectStatus.SUSPECT


def test_beside_another_suspect_the_next_death_decides() -> None:
    cases = SuspectTable()
    for content in (P, B):
        cases.record_death(content, "a/1", 0.0, alone=False, crashed=True)
        assert not cases.record_death(content, "b/1", 0.0, alone=False, crashed=True)
    cases.record_answer(B)
    assert cases.record_death(P, "c/1", 0.0, alone=True, crashed=True)
    assert cases.status(B, 0.0) is SuspectStatus.CLEAR


def test_a_refusal_by_another_node_holds_here_as_long() -> None:
    cases = SuspectTable()
    cases.record_refusal(P, 5.0)
    assert cases.status(P, 4.9) is SuspectStatus.REFUSED
    assert cases.status(P, 5.0) is SuspectStatus.CLEAR


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 3), st.booleans(), st.booleans()), max_size=80))
def test_the_table_is_bounded_and_nothing_is_refused_without_two_deaths(
    reports: list[tuple[int, int, bool, bool]],
) -> None:
    cases, deaths = SuspectTable(most=8), dict[int, set[int]]()
    for content, engine, alone, crashed in reports:
        deaths.setdefault(content, set()).add(engine)
        refused = cases.record_death(content.to_bytes(16), f"{engine}", 0.0, alone=alone, crashed=crashed)
        assert len(cases) <= 8
        assert not refused or (alone and len(deaths[content]) >= 2)


# the report of an engine's end


def test_a_death_report_names_the_engine_and_whether_other_suspects_were_there() -> None:
    life = EngineLifetime(3)
    life.suspects |= {1, 2}
    life.end()
    life.suspects.clear()  # each leaves with its loss
    assert life.death(1) == EngineDeath(LossReason.ENGINE_KILLED, "3", alone=False)
    life = EngineLifetime(4)
    life.suspects.add(1)
    life.end(134)
    assert life.death(1) == EngineDeath(LossReason.ENGINE_DIED, "4", alone=True)
    assert life.death(1, LossReason.ENGINE_STUCK) == EngineDeath(LossReason.ENGINE_STUCK, "4", alone=True)


@pytest.mark.parametrize(
    ("status", "reported", "reason"),
    [
        (134, False, LossReason.ENGINE_DIED),
        (1, False, LossReason.ENGINE_DIED),
        (-signal.SIGSEGV, False, LossReason.ENGINE_DIED),
        (-signal.SIGABRT, False, LossReason.ENGINE_DIED),
        (-signal.SIGKILL, False, LossReason.ENGINE_KILLED),
        (-signal.SIGTERM, False, LossReason.ENGINE_KILLED),
        (0, False, LossReason.ENGINE_KILLED),
        (None, False, LossReason.ENGINE_KILLED),
        (0, True, LossReason.ENGINE_DIED),
        (None, True, LossReason.ENGINE_DIED),
    ],
)
def test_an_engines_end_is_classified_by_exit_status_and_its_own_report(
    status: int | None, reported: bool, reason: LossReason
) -> None:
    life = EngineLifetime(1)
    life.end(status)
    if reported:  # the report is verified only after the end, where the server exits at once
        life.confirm_core_death()
    life.end(134)  # only the first end counts
    assert life.death(1).reason is reason
    assert life.death(1).crashed is (reason is LossReason.ENGINE_DIED)


def test_a_sigkill_beside_an_oom_kill_is_a_crash() -> None:
    """The request may have needed the memory."""
    life = EngineLifetime(1)
    life.end(-signal.SIGKILL, had_oom_kill=True)
    assert life.death(1).crashed


def test_an_opening_is_no_answer() -> None:
    assert not starts_answer(b"event: response.created\ndata: {}\n\nevent: response.in_progress\ndata: {}\n\n")
    assert not starts_answer(b"event: synkti-prompt\ndata: 1\n\n")
    role = b'data: {"choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}\n\n'
    assert not starts_answer(role)
    assert not starts_answer(role + role)
    assert starts_answer(role + role.replace(b'""', b'"a"'))
    assert starts_answer(role.replace(b"null", b'"stop"'))
    for odd in (b'data: {"choices":[]}', b'data: {"choices":[7]}', b"data: [1]", b"data: {", b'data: {"choices":7}'):
        assert starts_answer(odd + b"\n\n")
    assert starts_answer(b"event: response.output_text.delta\ndata: {}\n\n")
    assert may_indicate_death(LossReason.RESET)
    assert not may_indicate_death(LossReason.SILENCE)
    dead = orjson.dumps({"error": {"message": "EngineCore encountered an issue. See"}})
    assert reports_death(b"data: %b\n\ndata: [DONE]\n\n" % dead)
    assert not reports_death(b'data: {"choices":[{"text":"EngineCore encountered an issue"}]}\n\n')
