"""Test the file of the audit log: whole lines, a bounded size, and no other reader."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from node_agent.adapters.audit_file import OLDER_FILES, AuditFile
from node_agent.contract.errors import StoreUnavailable


def test_lines_are_appended_and_only_the_owner_reads_them(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    asyncio.run(AuditFile(path).write(b"a\n"))
    asyncio.run(AuditFile(path).write(b"b\n"))
    assert path.read_bytes() == b"a\nb\n"
    assert path.stat().st_mode & 0o777 == 0o600


def test_old_files_are_replaced_so_that_the_size_is_bounded(tmp_path: Path) -> None:
    log = AuditFile(tmp_path / "audit.log", max_bytes=10)
    for number in range(20):
        asyncio.run(log.write(b"%07d\n" % number))
    files = sorted(tmp_path.iterdir())
    assert len(files) == OLDER_FILES + 1
    assert [path.read_bytes() for path in files] == [b"0000019\n", b"0000018\n", b"0000017\n", b"0000016\n"]


def test_a_disk_that_takes_nothing_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreUnavailable, match="cannot be written"):
        asyncio.run(AuditFile(tmp_path / "file" / "audit.log").write(b"a\n"))
