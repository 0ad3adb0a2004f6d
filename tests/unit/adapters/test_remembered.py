"""Values that an agent starts with while AWS is away: those that the last one stored on this machine, or none."""

from __future__ import annotations

import asyncio
import stat
from pathlib import Path

import pytest

from node_agent import dependencies
from node_agent.adapters.node_key import NodeKey
from node_agent.adapters.remembered import Remembered
from node_agent.contract.errors import StoreUnavailable
from node_agent.ports import Identity
from node_agent.testing.fake_keys import MemorySecrets

WHO = Identity("i-1", "us-east-1a", "us-east-1", "g5.xlarge", "10.0.0.1")


def test_stored_values_are_read_by_the_next_agent_and_only_its_user(tmp_path: Path) -> None:
    kept = Remembered(tmp_path)
    kept.keep_key(b"\x00key\xff")
    kept.keep_identity(WHO)
    kept.keep_key(b"\x00another\xff")
    own = NodeKey.generate()
    kept.keep_node_key(own)
    again = Remembered(tmp_path)
    assert (again.key(), again.identity()) == (b"\x00another\xff", WHO)
    read = again.node_key()
    assert read is not None
    assert read.public == own.public
    for path in tmp_path.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_without_a_folder_nothing_is_stored(tmp_path: Path) -> None:
    for folder in (None, tmp_path / "missing"):
        kept = Remembered(folder)
        kept.keep_key(b"key")
        assert kept.key() is None
        assert kept.node_key() is None
        assert kept.identity() is None


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b'{"instance_id": "i-1"}', b"9" * 100_000])
def test_an_unreadable_file_counts_as_absent(content: bytes, tmp_path: Path) -> None:
    for name in ("identity.json", "node.key"):
        (tmp_path / name).write_bytes(content)
    assert Remembered(tmp_path).node_key() is None
    assert Remembered(tmp_path).identity() is None


def test_a_secret_without_a_key_counts_as_unavailable_and_a_stored_one_as_absent() -> None:
    assert dependencies._usable(b"key") == b"key"
    for document in (None, b"", b"{}", b"{"):
        assert dependencies._usable(document) is None
    secrets = MemorySecrets({"good": b'{"current": "key"}', "bad": b'{"next": "hidden"}'})
    assert asyncio.run(dependencies._read_keys(secrets, "good")) == b'{"current": "key"}'
    with pytest.raises(StoreUnavailable, match="no current key") as error:
        asyncio.run(dependencies._read_keys(secrets, "bad"))
    assert "hidden" not in str(error.value)


class Away:
    """A service that does not answer; failures: how many times."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.calls = 0

    async def __call__(self) -> str:
        self.calls += 1
        if self.calls <= self.failures:
            raise StoreUnavailable("Secrets Manager: 503")
        return "fresh"


def test_an_aws_that_is_away_at_a_restart_does_not_delay_a_node() -> None:
    away = Away(failures=100)
    assert asyncio.run(dependencies._retry_transient(away, "remembered")) == "remembered"
    assert away.calls == 1


def test_a_slow_aws_at_a_restart_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dependencies, "_REMEMBERED_AFTER_S", 0.01)

    async def slow() -> str:
        await asyncio.Event().wait()
        return "never"

    assert asyncio.run(dependencies._retry_transient(slow, "remembered")) == "remembered"


def test_an_answer_of_aws_takes_precedence_over_a_stored_value() -> None:
    assert asyncio.run(dependencies._retry_transient(Away(failures=0), "remembered")) == "fresh"


def test_a_fresh_instance_retries_until_aws_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent that exits after a minute is started five times, and then the instance is powered off."""
    waits: list[float] = []

    async def no_wait(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr("node_agent.dependencies.asyncio.sleep", no_wait)
    assert asyncio.run(dependencies._retry_transient(Away(failures=500), None)) == "fresh"
    assert len(waits) == 500
    assert max(waits) <= 8.0
