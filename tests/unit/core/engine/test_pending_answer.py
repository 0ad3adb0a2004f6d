"""Test when an answer has begun, and the loss of a request that waits for it."""

from __future__ import annotations

import pytest

from node_agent.core.engine.lifetime import EngineLifetime
from node_agent.core.engine.pending_answer import PendingAnswer, answer_start_timeout_s, starts_answer
from node_agent.core.failure.loss import EngineDeath, LossReason

ROLE = b'data: {"choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}\n\n'


def pending(lifetime: EngineLifetime, key: int = 1, *, is_suspect: bool = False) -> PendingAnswer:
    return PendingAnswer(lifetime, key, 1024, 100.0, is_suspect=is_suspect)


def test_a_stream_has_begun_with_its_first_bytes_and_not_before() -> None:
    answer = pending(EngineLifetime(1))
    assert not answer.may_have_begun(1_000.0, is_event_stream=True, was_sent=True)
    answer.begin()
    assert answer.may_have_begun(100.0, is_event_stream=True, was_sent=True)


def test_a_buffered_answer_may_have_begun_after_a_while() -> None:
    answer, timeout_s = pending(EngineLifetime(1)), answer_start_timeout_s(1024)
    assert timeout_s == 5.5
    assert not answer.may_have_begun(100.0 + timeout_s - 0.1, is_event_stream=False, was_sent=True)
    assert answer.may_have_begun(100.0 + timeout_s, is_event_stream=False, was_sent=True)


def test_a_request_that_was_never_sent_is_not_blamed() -> None:
    assert pending(EngineLifetime(1)).may_have_begun(100.0, is_event_stream=True, was_sent=False)


def test_a_request_that_arrives_after_the_cores_death_did_not_cause_it() -> None:
    lifetime = EngineLifetime(3)
    before = pending(lifetime)
    lifetime.confirm_core_death()
    assert before.death() == EngineDeath(LossReason.ENGINE_DIED, "3", alone=True)
    assert pending(lifetime).death() is LossReason.STARTING
    assert before.death(LossReason.ENGINE_STUCK) == EngineDeath(LossReason.ENGINE_STUCK, "3", alone=True)


def test_a_suspect_is_alone_once_the_other_one_has_an_answer() -> None:
    lifetime = EngineLifetime(1)
    first, second = pending(lifetime, 1, is_suspect=True), pending(lifetime, 2, is_suspect=True)
    pending(lifetime, 3)  # no suspect
    assert first.death() == EngineDeath(LossReason.ENGINE_DIED, "1", alone=False)
    second.begin()
    second.begin()
    assert first.death() == EngineDeath(LossReason.ENGINE_DIED, "1", alone=True)


@pytest.mark.parametrize(
    "data",
    [
        b"event: response.created\ndata: {}\n\nevent: response.in_progress\ndata: {}\n\n",
        b"event: synkti-prompt\ndata: 1\n\n",
        ROLE,
        ROLE + ROLE,
    ],
)
def test_an_opening_is_no_answer(data: bytes) -> None:
    assert not starts_answer(data)


@pytest.mark.parametrize(
    "data",
    [
        ROLE + ROLE.replace(b'""', b'"a"'),
        ROLE.replace(b"null", b'"stop"'),
        b'data: {"choices":[]}\n\n',
        b'data: {"choices":[7]}\n\n',
        b"data: [1]\n\n",
        b"data: {\n\n",
        b'data: {"choices":7}\n\n',
        b"event: response.output_text.delta\ndata: {}\n\n",
    ],
)
def test_anything_else_is_an_answer(data: bytes) -> None:
    assert starts_answer(data)
