"""What an agent starts with while AWS is away: what the last one learned on this machine, or nothing."""

from __future__ import annotations

import asyncio
import stat
from pathlib import Path

import pytest

from node_agent import dependencies
from node_agent.adapters.remembered import Remembered
from node_agent.contract.errors import StoreUnavailable
from node_agent.ports import Identity

WHO = Identity("i-1", "us-east-1a", "us-east-1", "g5.xlarge", "10.0.0.1")


def test_what_was_learned_is_there_for_the_next_agent_and_for_nobody_else(tmp_path: Path) -> None:
    kept = Remembered(tmp_path)
    kept.keep_key(b"\x00key\xff")
    kept.keep_identity(WHO)
    kept.keep_key(b"\x00another\xff")
    again = Remembered(tmp_path)
    assert (again.key(), again.identity()) == (b"\x00another\xff", WHO)
    for path in tmp_path.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_without_a_folder_nothing_is_kept(tmp_path: Path) -> None:
    for folder in (None, tmp_path / "missing"):
        kept = Remembered(folder)
        kept.keep_key(b"key")
        assert kept.key() is None
        assert kept.identity() is None


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b'{"instance_id": "i-1"}', b"9" * 100_000])
def test_what_cannot_be_read_counts_as_absent(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "identity.json").write_bytes(content)
    assert Remembered(tmp_path).identity() is None


class Away:
    """A service that does not answer; failures: how many times."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.asked = 0

    async def __call__(self) -> str:
        self.asked += 1
        if self.asked <= self.failures:
            raise StoreUnavailable("Secrets Manager: 503")
        return "fresh"


def test_an_aws_that_is_away_at_a_restart_does_not_keep_a_node_from_serving() -> None:
    away = Away(failures=100)
    assert asyncio.run(dependencies._retry_transient(away, "remembered")) == "remembered"
    assert away.asked == 1


def test_an_aws_that_is_slow_at_a_restart_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dependencies, "_REMEMBERED_AFTER_S", 0.01)

    async def slow() -> str:
        await asyncio.Event().wait()
        return "never"

    assert asyncio.run(dependencies._retry_transient(slow, "remembered")) == "remembered"


def test_what_aws_says_goes_before_what_was_remembered() -> None:
    assert asyncio.run(dependencies._retry_transient(Away(failures=0), "remembered")) == "fresh"


def test_a_fresh_instance_asks_until_aws_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent that exits after a minute is started five times, and then the instance is powered off."""
    waits: list[float] = []

    async def no_wait(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr("node_agent.dependencies.asyncio.sleep", no_wait)
    assert asyncio.run(dependencies._retry_transient(Away(failures=500), None)) == "fresh"
    assert len(waits) == 500
    assert max(waits) <= 8.0
