"""Write the audit log to a file of bounded size, which only its owner may read."""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

from node_agent.contract.errors import StoreUnavailable

MAX_BYTES = 64 * 1024 * 1024
OLDER_FILES = 3
"""Kept beside the current one, under its name with .1 (the newest) to .3."""


class AuditFile:
    """The AuditLog port. max_bytes: of one file; a file that would become larger is renamed first."""

    def __init__(self, path: Path, max_bytes: int = MAX_BYTES) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="audit")

    async def write(self, lines: bytes) -> None:
        """Append lines. Raises StoreUnavailable."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._append, lines)

    def _append(self, lines: bytes) -> None:
        try:
            self._rotate(len(lines))
            descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            with os.fdopen(descriptor, "ab") as file:
                file.write(lines)
        except OSError as error:
            raise StoreUnavailable(f"the audit log {self._path} cannot be written: {error.strerror}") from error

    def _rotate(self, more: int) -> None:
        """Rename the file where `more` bytes would make it too large; the oldest one is replaced."""
        if not self._path.exists() or self._path.stat().st_size + more <= self._max_bytes:
            return
        files = [self._path, *(Path(f"{self._path}.{number}") for number in range(1, OLDER_FILES + 1))]
        for newer, older in reversed(list(pairwise(files))):
            if newer.exists():
                newer.replace(older)
