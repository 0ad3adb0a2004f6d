"""Store blocks in a folder, bounded by bytes: the engine's workers and the agent write it, all of them read it.

Rules kept here:

* a block gets its name when it is complete: it is written under another one first. After a crash of the machine a file
  may be complete by name and not in fact; readers verify the checksum anyway;
* the files themselves are the only record of what is stored. Each writer may add a share of the bound between two scans
  of them, and every scan leaves a share for each: so the bound holds with any writer;
* the least recently used block is evicted first; a file's modification time is its last use.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from node_agent.core.kv.blocks import NAME_SUFFIX

LAYOUT = "layout.json"
"""What the engine stores here: its fingerprint, its block size, or why it stores nothing."""

LAST_BLOCKS = "heads.log"
"""Each request's last block: lines of request id and key, appended by the engine."""

MAX_LAST_BLOCKS_BYTES = 1024 * 1024
MAX_WRITERS = 16
"""An engine's workers and the agent. The agent assumes that many, since it does not know the workers' number."""

_SHARES = 8
_ABANDONED_S = 60.0
_TEMPORARY = ".tmp"
_numbers = itertools.count()


class BlockFolder:
    """A folder of blocks.

    max_bytes: of all blocks together.
    writers: processes that may write at once.
    """

    def __init__(self, root: Path, max_bytes: int, writers: int = 2) -> None:
        self.root = root
        self.max_bytes = max_bytes
        self._writers = writers
        self._share = max_bytes // (_SHARES * writers)
        self._written = self._share  # so that the first write scans what an earlier process left
        self._lock = threading.Lock()

    @property
    def kept_bytes(self) -> int:
        """The bytes that remain after an eviction."""
        return self.max_bytes - self._writers * self._share

    def path(self, name: str) -> Path:
        """Return the path of a block's file, stored or not."""
        return self.root / name[:2] / name

    def contains(self, name: str) -> bool:
        """Return whether a block's file exists; its content is not verified."""
        # On the scheduler's path, thousands of times for a long prompt: a third of what pathlib takes.
        return os.path.exists(f"{self.root}/{name[:2]}/{name}")

    def write(self, name: str, *parts: bytes | bytearray | memoryview) -> bool:
        """Store a block; return False where it alone exceeds the bound. Raises OSError."""
        size = sum(map(len, parts))
        if size > self._share:
            return False
        self._make_room(size)
        path = self.path(name)
        unfinished = path.with_name(f"{name}.{os.getpid()}.{next(_numbers)}{_TEMPORARY}")
        try:
            with _opened(unfinished) as file:
                for part in parts:
                    file.write(part)
            unfinished.replace(path)
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise
        return True

    def read(self, name: str) -> bytearray | None:
        """Return the whole file, None where it is missing. Raises OSError."""
        try:
            with open(self.path(name), "rb", buffering=0) as file:
                size = os.fstat(file.fileno()).st_size
                data = bytearray(size)
                got = file.readinto(data)
            return data[: got or 0]
        except FileNotFoundError:
            return None

    def read_prefix(self, name: str, count: int) -> bytes | None:
        """Return the first `count` bytes of a block, None where it is missing. Raises OSError."""
        try:
            with self.path(name).open("rb") as file:
                return file.read(count)
        except FileNotFoundError:
            return None

    def size(self, name: str) -> int | None:
        """Return the bytes of a block's file, None where it is missing. Raises OSError."""
        try:
            return self.path(name).stat().st_size
        except FileNotFoundError:
            return None

    def touch(self, name: str) -> None:
        """Mark a block as used now."""
        with contextlib.suppress(FileNotFoundError):
            os.utime(self.path(name))

    def remove(self, name: str) -> None:
        """Delete a block's file, if it exists. Raises OSError."""
        self.path(name).unlink(missing_ok=True)

    # room

    def _make_room(self, size: int) -> None:
        with self._lock:
            self._written += size
            if self._written > self._share:
                self.evict()
                self._written = size

    def evict(self) -> int:
        """Remove the least recently used blocks until every writer has its share; return the bytes that remain."""
        now, files, kept = time.time(), [], 0
        for entry in self._entries():
            with contextlib.suppress(FileNotFoundError):
                status = entry.stat()
                if not entry.name.endswith(NAME_SUFFIX):
                    if now - status.st_mtime > _ABANDONED_S:  # its writer was killed
                        os.unlink(entry.path)
                    continue
                files.append((status.st_mtime_ns, status.st_size, entry.path))
                kept += status.st_size
        files.sort(reverse=True)
        while files and kept > self.kept_bytes:
            _, size, path = files.pop()
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            kept -= size
        return kept

    def _entries(self) -> list[os.DirEntry[str]]:
        found: list[os.DirEntry[str]] = []
        with contextlib.suppress(FileNotFoundError):
            for below in list(os.scandir(self.root)):
                if below.is_dir():
                    found += os.scandir(below.path)
        return found

    # files beside the blocks

    def write_layout(self, layout: Mapping[str, Any]) -> None:
        """Record what is stored here. Raises OSError."""
        self.root.mkdir(parents=True, exist_ok=True)
        new = self.root / f"{LAYOUT}.{os.getpid()}{_TEMPORARY}"
        new.write_text(json.dumps(layout))
        new.replace(self.root / LAYOUT)

    def read_layout(self) -> dict[str, Any] | None:
        """Return what the engine recorded; None before it has."""
        with contextlib.suppress(OSError, ValueError, RecursionError):
            status = json.loads((self.root / LAYOUT).read_text())
            return status if isinstance(status, dict) else None
        return None

    def append_last_blocks(self, heads: Mapping[str, bytes]) -> None:
        """Record the last block of each of these requests. Raises OSError."""
        path = self.root / LAST_BLOCKS
        with path.open("a") as file:
            file.write("".join(f"{request} {key.hex()}\n" for request, key in heads.items()))
            size = file.tell()
        if size > MAX_LAST_BLOCKS_BYTES:
            path.replace(path.with_suffix(".old"))

    def last_blocks(self, having: str = "") -> dict[str, bytes]:
        """Return the last block of each recorded request; the latest requests last.

        having: only of requests with this in their ids. A drain requests stream after stream, and parsing the whole
        file takes twenty times as long as some lines of it.
        """
        found: dict[str, bytes] = {}
        for path in ((self.root / LAST_BLOCKS).with_suffix(".old"), self.root / LAST_BLOCKS):
            with contextlib.suppress(FileNotFoundError):
                text = path.read_text(errors="replace")
                for line in text.splitlines() if having in text else ():
                    if having not in line:
                        continue
                    request, _, key = line.rpartition(" ")
                    with contextlib.suppress(ValueError):  # a partial line: the engine is writing it
                        found.pop(request, None)
                        found[request] = bytes.fromhex(key)
        return found


def _opened(path: Path) -> Any:
    """Create a file, and its folder where that is missing."""
    try:
        return path.open("xb")
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("xb")
