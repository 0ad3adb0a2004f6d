"""Blocks in a folder, bounded by bytes: the engine's workers write it, the agent writes it, all of them read it.

Rules kept here:

* a block gets its name when it is whole: it is written under another one first. After a crash of the machine a file
  may be whole by name and not in fact; readers compare the checksum anyway;
* the files themselves are the only account of what is there. Each writer may add a share of the bound between two
  looks at them, and every look leaves a share for each: so the bound holds, whoever writes;
* what was used longest ago goes first; a file's time of change is when it was used last.
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
"""What the engine keeps here: its fingerprint, its block size, or why it keeps nothing."""

LAST_BLOCKS = "heads.log"
"""Which block each request got last: lines of request id and key, appended by the engine."""

MAX_LAST_BLOCKS_BYTES = 1024 * 1024
MAX_WRITERS = 16
"""An engine's workers and the agent. The agent counts with so many, since it does not know the workers' number."""

_SHARES = 8
_ABANDONED_S = 60.0
_TEMPORARY = ".tmp"
_numbers = itertools.count()


class BlockFolder:
    """max_bytes: of all blocks together; writers: processes that may write at once."""

    def __init__(self, root: Path, max_bytes: int, writers: int = 2) -> None:
        self.root = root
        self.max_bytes = max_bytes
        self._writers = writers
        self._share = max_bytes // (_SHARES * writers)
        self._written = self._share  # so that the first write looks at what an earlier process left
        self._lock = threading.Lock()

    @property
    def kept_bytes(self) -> int:
        """How much is left when room was made."""
        return self.max_bytes - self._writers * self._share

    def path(self, name: str) -> Path:
        return self.root / name[:2] / name

    def contains(self, name: str) -> bool:
        # On the scheduler's path, thousands of times for a long prompt: a third of what pathlib takes.
        return os.path.exists(f"{self.root}/{name[:2]}/{name}")

    def write(self, name: str, *parts: bytes | bytearray | memoryview) -> bool:
        """Keep a block; False where it alone is more than the bound. Raises OSError."""
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
        """The whole file, None where there is none. Raises OSError."""
        try:
            with open(self.path(name), "rb", buffering=0) as file:
                size = os.fstat(file.fileno()).st_size
                data = bytearray(size)
                got = file.readinto(data)
            return data[: got or 0]
        except FileNotFoundError:
            return None

    def read_prefix(self, name: str, count: int) -> bytes | None:
        """The first `count` bytes of a block. Raises OSError."""
        try:
            with self.path(name).open("rb") as file:
                return file.read(count)
        except FileNotFoundError:
            return None

    def size(self, name: str) -> int | None:
        try:
            return self.path(name).stat().st_size
        except FileNotFoundError:
            return None

    def touch(self, name: str) -> None:
        """Somebody needed it just now."""
        with contextlib.suppress(FileNotFoundError):
            os.utime(self.path(name))

    def remove(self, name: str) -> None:
        self.path(name).unlink(missing_ok=True)

    # room

    def _make_room(self, size: int) -> None:
        with self._lock:
            self._written += size
            if self._written > self._share:
                self.evict()
                self._written = size

    def evict(self) -> int:
        """Remove what was used longest ago, until every writer has its share; the bytes that stay."""
        now, files, kept = time.time(), [], 0
        for entry in self._entries():
            with contextlib.suppress(FileNotFoundError):
                status = entry.stat()
                if not entry.name.endswith(NAME_SUFFIX):
                    if now - status.st_mtime > _ABANDONED_S:  # whoever wrote it was killed
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

    # what is beside the blocks

    def write_layout(self, layout: Mapping[str, Any]) -> None:
        """Say what is kept here. Raises OSError."""
        self.root.mkdir(parents=True, exist_ok=True)
        new = self.root / f"{LAYOUT}.{os.getpid()}{_TEMPORARY}"
        new.write_text(json.dumps(layout))
        new.replace(self.root / LAYOUT)

    def read_layout(self) -> dict[str, Any] | None:
        """What the engine said of it; None where it has said nothing yet."""
        with contextlib.suppress(OSError, ValueError, RecursionError):
            status = json.loads((self.root / LAYOUT).read_text())
            return status if isinstance(status, dict) else None
        return None

    def append_last_blocks(self, heads: Mapping[str, bytes]) -> None:
        """Say which block each of these requests got last. Raises OSError."""
        path = self.root / LAST_BLOCKS
        with path.open("a") as file:
            file.write("".join(f"{request} {key.hex()}\n" for request, key in heads.items()))
            size = file.tell()
        if size > MAX_LAST_BLOCKS_BYTES:
            path.replace(path.with_suffix(".old"))

    def last_blocks(self, having: str = "") -> dict[str, bytes]:
        """The last block of each request, as far back as it is known; the latest requests last.

        having: only of requests with this in their names. A drain asks for stream after stream, and all of the file
        parsed takes twenty times as long as some lines of it.
        """
        found: dict[str, bytes] = {}
        for path in ((self.root / LAST_BLOCKS).with_suffix(".old"), self.root / LAST_BLOCKS):
            with contextlib.suppress(FileNotFoundError):
                text = path.read_text(errors="replace")
                for line in text.splitlines() if having in text else ():
                    if having not in line:
                        continue
                    request, _, key = line.rpartition(" ")
                    with contextlib.suppress(ValueError):  # half a line: the engine is writing it
                        found.pop(request, None)
                        found[request] = bytes.fromhex(key)
        return found


def _opened(path: Path) -> Any:
    """A new file, and its folder where that is missing."""
    try:
        return path.open("xb")
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("xb")
