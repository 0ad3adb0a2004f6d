"""Test what the requests at an engine receive when it ends, and what indicates its end."""

from __future__ import annotations

import signal

import orjson
import pytest

from node_agent.core.engine.lifetime import EngineLifetime, may_indicate_death, reports_death
from node_agent.core.failure.loss import EngineDeath, LossReason


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


def test_a_broken_connection_may_mean_a_death_and_a_silence_does_not() -> None:
    assert may_indicate_death(LossReason.RESET)
    assert not may_indicate_death(LossReason.SILENCE)


def test_an_error_event_reports_a_death_and_an_answers_text_does_not() -> None:
    dead = orjson.dumps({"error": {"message": "EngineCore encountered an issue. See"}})
    assert reports_death(b"data: %b\n\ndata: [DONE]\n\n" % dead)
    assert not reports_death(b'data: {"choices":[{"text":"EngineCore encountered an issue"}]}\n\n')
