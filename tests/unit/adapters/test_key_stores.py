"""Test where clients' keys are read from: a file of mode 0600, and a secret."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from node_agent.adapters.key_stores import FileKeyStore, SecretKeyStore
from node_agent.adapters.remembered import Remembered
from node_agent.contract.errors import StoreUnavailable
from node_agent.core.access.key_document import MAX_DOCUMENT_BYTES


def _write(path: Path, content: bytes, mode: int = 0o600) -> Path:
    path.write_bytes(content)
    path.chmod(mode)
    return path


def test_a_file_is_read_again_where_it_changed(tmp_path: Path) -> None:
    store = FileKeyStore(_write(tmp_path / "keys.json", b"one"))
    assert asyncio.run(store.read()) == b"one"
    _write(tmp_path / "other", b"two").replace(tmp_path / "keys.json")
    assert asyncio.run(store.read()) == b"two"


def test_an_unchanged_file_is_not_read_again(tmp_path: Path) -> None:
    path = _write(tmp_path / "keys.json", b"one")
    store = FileKeyStore(path)
    store.read_now()
    status = path.stat()
    path.write_bytes(b"two")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert store.read_now() == b"one", "same time, size and file: it counts as unchanged"


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o606, 0o660, 0o620])
def test_a_file_that_others_may_read_is_refused_with_the_remedy(tmp_path: Path, mode: int) -> None:
    store = FileKeyStore(_write(tmp_path / "keys.json", b"secret", mode))
    with pytest.raises(StoreUnavailable, match=f"has mode 0{mode:o}.*chmod 600") as failed:
        asyncio.run(store.read())
    assert "secret" not in str(failed.value)


def test_a_missing_file_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match=r"keys\.json cannot be read: No such file"):
        asyncio.run(FileKeyStore(tmp_path / "keys.json").read())
    with pytest.raises(StoreUnavailable, match="cannot be read"):
        asyncio.run(FileKeyStore(tmp_path).read())


def test_of_a_huge_file_no_more_is_read_than_a_document_has(tmp_path: Path) -> None:
    store = FileKeyStore(_write(tmp_path / "keys.json", b"x" * (4 * MAX_DOCUMENT_BYTES)))
    assert len(store.read_now()) == MAX_DOCUMENT_BYTES + 1


class _Secrets:
    """The Secrets port with one secret."""

    def __init__(self) -> None:
        self.names: list[str] = []

    async def read(self, name: str) -> bytes:
        self.names.append(name)
        return b"document"


def test_a_secret_is_read_under_its_name(tmp_path: Path) -> None:
    secrets = _Secrets()
    store = SecretKeyStore(secrets, "synkti/client-keys", Remembered(tmp_path))
    assert asyncio.run(store.read()) == b"document"
    assert secrets.names == ["synkti/client-keys"]


def test_a_usable_document_is_there_for_the_next_agent_of_the_machine(tmp_path: Path) -> None:
    store = SecretKeyStore(_Secrets(), "n", Remembered(tmp_path))
    assert store.remembered() is None
    store.keep(b"document")
    assert SecretKeyStore(_Secrets(), "n", Remembered(tmp_path)).remembered() == b"document"
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}
    assert SecretKeyStore(_Secrets(), "n", Remembered(None)).remembered() is None
