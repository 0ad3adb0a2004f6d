"""Store blocks in a folder, bounded by bytes: the engine's workers and the agent write it, all of them read it.

Rules kept here:

* a block gets its name when it is complete: it is written under another one first. After a crash of the machine a file
  may be complete by name and not in fact; readers verify the checksum anyway;
* the files themselves are the only record of what is stored. Each writer may add a share of the bound between two scans
  of them, and every scan leaves a share for each: so the bound holds with any writer;
* the least recently used block is evicted first; a file's modification time is its last use;
* no link is followed, and only regular files count: the engine may be compromised, and the agent is another user.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from node_agent.core.kv.blocks import NAME_SUFFIX
from node_agent.kv.regular_files import open_regular, opened_folder, read_regular, regular_size

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
_MAX_LAYOUT_BYTES = 64 * 1024
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
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
        unfinished = f"{name}.{os.getpid()}.{next(_numbers)}{_TEMPORARY}"
        with self._folder_of(name, make=True) as folder:
            if folder is None:
                raise OSError(errno.ENOTDIR, f"{name[:2]} is no folder")
            descriptor = os.open(unfinished, _CREATE, 0o666, dir_fd=folder)
            try:
                with open(descriptor, "wb") as file:
                    file.writelines(parts)
                os.replace(unfinished, name, src_dir_fd=folder, dst_dir_fd=folder)
            except BaseException:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(unfinished, dir_fd=folder)
                raise
        return True

    def read(self, name: str) -> bytearray | None:
        """Read the whole file, None where it is missing. Raises OSError."""
        with self._folder_of(name) as folder:
            return None if folder is None else read_regular(name, folder, self.max_bytes // _SHARES)

    def read_prefix(self, name: str, count: int) -> bytes | None:
        """Return the first `count` bytes of a block, None where it is missing. Raises OSError."""
        with self._folder_of(name) as folder:
            descriptor = None if folder is None else open_regular(name, folder)
        if descriptor is None:
            return None
        with open(descriptor, "rb") as file:
            return file.read(count)

    def size(self, name: str) -> int | None:
        """Return the bytes of a block's file, None where it is missing. Raises OSError."""
        with self._folder_of(name) as folder:
            return None if folder is None else regular_size(name, folder)

    def touch(self, name: str) -> None:
        """Mark a block as used now."""
        with self._folder_of(name) as folder, contextlib.suppress(FileNotFoundError):
            if folder is not None:
                os.utime(name, dir_fd=folder, follow_symlinks=False)

    def remove(self, name: str) -> None:
        """Delete a block's file, if it exists. Raises OSError."""
        with self._folder_of(name) as folder, contextlib.suppress(FileNotFoundError):
            if folder is not None:
                os.unlink(name, dir_fd=folder)

    @contextlib.contextmanager
    def _folder_of(self, name: str, *, make: bool = False) -> Iterator[int | None]:
        """Open the folder of a block's file for the context; None where it is missing. Raises OSError."""
        path = self.root / name[:2]
        if make:
            path.mkdir(parents=True, exist_ok=True)
        with opened_folder(path) as folder:
            yield folder

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
        for path in self._folders():
            with opened_folder(path) as folder:
                for name, status in _regular_files(folder):
                    if not name.endswith(NAME_SUFFIX):
                        if now - status.st_mtime > _ABANDONED_S:  # its writer was killed
                            _unlink(path, name)
                        continue
                    files.append((status.st_mtime_ns, status.st_size, path, name))
                    kept += status.st_size
        files.sort(reverse=True)
        while files and kept > self.kept_bytes:
            _, size, path, name = files.pop()
            _unlink(path, name)
            kept -= size
        return kept

    def _folders(self) -> list[str]:
        with contextlib.suppress(FileNotFoundError), os.scandir(self.root) as entries:
            return [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
        return []

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
            status = json.loads(self._read_beside(LAYOUT, _MAX_LAYOUT_BYTES) or b"")
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
        for name in (Path(LAST_BLOCKS).with_suffix(".old").name, LAST_BLOCKS):
            text = (self._read_beside(name, 2 * MAX_LAST_BLOCKS_BYTES) or b"").decode(errors="replace")
            for line in text.splitlines() if having in text else ():
                if having not in line:
                    continue
                request, _, key = line.rpartition(" ")
                with contextlib.suppress(ValueError):  # a partial line: the engine is writing it
                    found.pop(request, None)
                    found[request] = bytes.fromhex(key)
        return found

    def _read_beside(self, name: str, max_bytes: int) -> bytearray | None:
        """Read a file beside the blocks; None where it is missing. Raises OSError."""
        with opened_folder(self.root) as folder:
            return None if folder is None else read_regular(name, folder, max_bytes)


def _regular_files(folder: int | None) -> list[tuple[str, os.stat_result]]:
    """Return the regular files of an open folder, each with its status."""
    found = []
    if folder is not None:
        with os.scandir(folder) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):
                    if entry.is_file(follow_symlinks=False):
                        found.append((entry.name, entry.stat(follow_symlinks=False)))
    return found


def _unlink(path: str, name: str) -> None:
    """Delete a file of a folder, if both exist."""
    with opened_folder(path) as folder, contextlib.suppress(FileNotFoundError):
        if folder is not None:
            os.unlink(name, dir_fd=folder)
