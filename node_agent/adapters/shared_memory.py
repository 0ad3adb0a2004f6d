"""Remove what a killed engine leaves in /dev/shm: recorded on disk while it lives, removed when it is gone.

A process that gets SIGKILL unlinks nothing, and gigabytes of memory stay without a user. Only segments are removed that
this node's engine had mapped, that were made after it started, belong to this user, and are mapped by no process any
more: another process's segment is never touched, whatever its name. File names are bytes: nothing here decodes them.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

SHM = Path("/dev/shm")  # noqa: S108 # not a scratch file of ours: where POSIX shared memory is
PROC = Path("/proc")
MAX_NOTED = 4_096
_MAX_NOTE_BYTES = 4 * 1024 * 1024
_DELETED = b" (deleted)"
_log = logging.getLogger(__name__)


class Segment(NamedTuple):
    """A file of /dev/shm. The inode distinguishes it from a later one of the same name."""

    name: bytes
    inode: int


class SharedMemoryNotes:
    """Records the segments of one engine. file: where they are recorded, for the agent after this one."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._noted = _read(file)
        self._before: set[Segment] = set()

    def begin(self) -> None:
        """Record the present segments before an engine starts: they are not its own."""
        self._before = present()

    def note(self, pids: Iterable[int]) -> None:
        """Record what these processes of the engine have mapped now: after a SIGKILL their maps are gone."""
        names = set[bytes]().union(*map(mapped, pids))
        new = {segment for segment in present() if segment.name in names} - self._before - self._noted
        if not new:
            return
        self._noted = set(sorted(self._noted | new)[:MAX_NOTED])
        try:
            _write(self._file, self._noted)
        except OSError as error:  # a full disk: this agent still knows them
            _log.warning("the engine's shared memory cannot be noted: %s", error)

    def remove(self) -> None:
        """Remove what the ended engine left and no process has mapped. Mapped segments stay recorded."""
        if not self._noted:
            return
        used = set[bytes]().union(*(mapped(pid) for pid in processes()))
        here = present()
        for segment in self._noted & here:
            if segment.name not in used and _owner(segment) == os.geteuid():
                with contextlib.suppress(OSError):
                    os.unlink(os.path.join(os.fsencode(SHM), segment.name))
        self._noted = {segment for segment in self._noted & here if segment.name in used}
        with contextlib.suppress(OSError):
            if self._noted:
                _write(self._file, self._noted)
            else:
                self._file.unlink(missing_ok=True)


def processes() -> list[int]:
    """Return the ids of all processes."""
    return [int(name) for name in os.listdir(PROC) if name.isascii() and name.isdigit()]


def mapped(pid: int) -> set[bytes]:
    """Return the names of the files of /dev/shm that a process has mapped; none where it is gone, or another user's."""
    prefix = os.fsencode(SHM) + b"/"
    try:
        lines = (PROC / str(pid) / "maps").read_bytes().splitlines()
    except OSError:
        return set()
    paths = (line.split(None, 5)[5] for line in lines if prefix in line)
    names = (path.removeprefix(prefix).removesuffix(_DELETED) for path in paths if path.startswith(prefix))
    return {name.replace(rb"\012", b"\n") for name in names}


def present() -> set[Segment]:
    """Return the regular files of /dev/shm."""
    found = set()
    with contextlib.suppress(OSError), os.scandir(os.fsencode(SHM)) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                if entry.is_file(follow_symlinks=False):
                    found.add(Segment(entry.name, entry.inode()))
    return found


def _owner(segment: Segment) -> int:
    try:
        return os.lstat(os.path.join(os.fsencode(SHM), segment.name)).st_uid
    except OSError:
        return -1


def _read(file: Path) -> set[Segment]:
    """Return what an earlier agent recorded; nothing where that cannot be read."""
    try:
        with file.open("rb") as notes:
            listed = json.loads(notes.read(_MAX_NOTE_BYTES))
        return {_segment(*each) for each in listed[:MAX_NOTED]}
    except FileNotFoundError:
        return set()
    except (OSError, ValueError, TypeError, RecursionError) as error:
        _log.warning("%s cannot be read: %s", file, error)
        return set()


def _segment(name: str, inode: int) -> Segment:
    """Return a recorded segment. Raises ValueError, TypeError."""
    raw = os.fsencode(name)
    if type(inode) is not int or raw in (b"", b".", b"..") or b"/" in raw or b"\0" in raw:
        raise ValueError(f"no file of {SHM}: {name!r}")
    return Segment(raw, inode)


def _write(file: Path, segments: Iterable[Segment]) -> None:
    """Write the record atomically. Raises OSError."""
    new = file.with_name(file.name + ".new")
    new.write_text(json.dumps([[os.fsdecode(segment.name), segment.inode] for segment in sorted(segments)]))
    new.replace(file)
