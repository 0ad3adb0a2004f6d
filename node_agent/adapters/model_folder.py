"""Manage a model's folder on a node's disk: its files, which of them are verified, and incomplete files.

Nothing is flushed to the disk on purpose: a boot should not wait for that. So the record of verified files is valid
until the next boot, after which everything is verified again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import threading
from pathlib import Path

from node_agent.contract.models import ModelFile
from node_agent.core.node.model_download_plan import DONE_SUFFIX, PART_SUFFIX, OnDisk, Verified

_NOTE = ".synkti-verified.json"
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_CHUNK_BYTES = 4 * 1024 * 1024


class ModelFolder:
    """A model's folder. root: made where it does not exist."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._lock = threading.Lock()
        root.mkdir(parents=True, exist_ok=True)
        self._boot = _boot_id()
        self._verified = self._read_note()

    def files(self) -> dict[str, OnDisk]:
        """Return every file by its path below the root, except the record; a link counts as its target."""
        found = {}
        for folder, _, names in os.walk(self._root):
            for name in names:
                path = Path(folder, name)
                with contextlib.suppress(FileNotFoundError):  # a link that leads nowhere is no file
                    status = path.stat()
                    found[path.relative_to(self._root).as_posix()] = OnDisk(status.st_size, status.st_mtime_ns)
        found.pop(_NOTE, None)
        return found

    @property
    def verified(self) -> dict[str, Verified]:
        """The files verified since the machine booted."""
        return dict(self._verified)

    def compare(self, file: ModelFile) -> bool:
        """Return whether the file on the disk is the manifest's, and record it where it is. Raises OSError."""
        path = self._root / file.path
        before = path.stat()
        if _sha256(path) != file.sha256:
            return False
        self._note(file, before)
        return True

    def remove(self, path: str) -> None:
        """Delete a file, by its path below the root, if it exists. Raises OSError."""
        (self._root / path).unlink(missing_ok=True)

    def part(self, file: ModelFile) -> PartFile:
        """Return the file that receives the ranges until it is complete. Raises OSError."""
        target = self._root / file.path
        target.parent.mkdir(parents=True, exist_ok=True)
        return PartFile(target, file)

    def finish(self, file: ModelFile, part: PartFile) -> bool:
        """Rename the file where its SHA-256 is right; else remove it. Raises OSError."""
        part.write(0, b"")  # an empty file has no range that would have made it
        part.close()
        if _sha256(part.path) != file.sha256:
            part.discard()
            return False
        target = self._root / file.path
        part.path.replace(target)
        part.discard()
        self._note(file, target.stat())
        return True

    def free_bytes(self) -> int:
        """Return the free bytes of the disk that the folder is on. Raises OSError."""
        return shutil.disk_usage(self._root).free

    def _note(self, file: ModelFile, status: os.stat_result) -> None:
        with self._lock:
            self._verified[file.path] = Verified(status.st_size, status.st_mtime_ns, file.sha256)
            held = {path: [v.size, v.mtime_ns, v.sha256] for path, v in self._verified.items()}
            new = self._root / (_NOTE + ".new")
            new.write_text(json.dumps({"boot": self._boot, "files": held}))
            new.replace(self._root / _NOTE)

    def _read_note(self) -> dict[str, Verified]:
        try:
            note = json.loads((self._root / _NOTE).read_text())
            held = {path: Verified(int(s), int(m), str(h)) for path, (s, m, h) in note["files"].items()}
            return held if note["boot"] == self._boot else {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
            return {}  # a note that cannot be read vouches for nothing


class PartFile:
    """An incomplete file: `<name>.part` at its full length, and the list of its complete ranges.

    The list begins with the file's expected SHA-256: ranges of an older file of this name are invalid. The file is
    opened at its first range: a model may have more files than a process may have open.
    """

    def __init__(self, target: Path, file: ModelFile) -> None:
        self.path = target.with_name(target.name + PART_SUFFIX)
        self._list = target.with_name(target.name + DONE_SUFFIX)
        self._file = file
        self._lock = threading.Lock()
        self._fd: int | None = None
        self.done = self._read_list(file)

    def write(self, offset: int, piece: bytes) -> None:
        """Write a piece at an offset. Raises OSError."""
        fd, view = self._opened(), memoryview(piece)
        while view:
            written = os.pwrite(fd, view, offset)
            view, offset = view[written:], offset + written

    def mark_done(self, start: int) -> None:
        """Record that the range that begins at `start` is written."""
        with self._lock, self._list.open("a") as listing:
            listing.write(f"{start}\n")

    def close(self) -> None:
        """Close the file; may be called again."""
        with self._lock:
            if self._fd is not None:
                os.close(self._fd)
                self._fd = None

    def discard(self) -> None:
        """Delete the file and the list of its ranges, if they exist. Raises OSError."""
        self.path.unlink(missing_ok=True)
        self._list.unlink(missing_ok=True)

    def _opened(self) -> int:
        with self._lock:
            if self._fd is None:
                if not self.done:
                    self.discard()
                    self._list.write_text(self._file.sha256 + "\n")
                self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
                os.ftruncate(self._fd, self._file.size)
            return self._fd

    def _read_list(self, file: ModelFile) -> frozenset[int]:
        try:
            if self.path.stat().st_size != file.size:
                return frozenset()
            first, *starts = self._list.read_text(encoding="ascii", errors="replace").split("\n")
        except OSError:
            return frozenset()
        # The last line may be cut: only what a line end follows was written.
        return (
            frozenset(int(start) for start in starts[:-1] if start.isdigit()) if first == file.sha256 else frozenset()
        )


def _boot_id() -> str:
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_CHUNK_BYTES):
            digest.update(piece)
    return digest.hexdigest()


def count_gpus() -> int:
    """Return the number of NVIDIA GPUs whose driver is loaded."""
    try:
        return sum(1 for _ in Path("/proc/driver/nvidia/gpus").iterdir())
    except OSError:
        return 0


def memory_bytes() -> int:
    """Return the size of this machine's memory; 0 where it cannot be read."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (OSError, ValueError):
        return 0
