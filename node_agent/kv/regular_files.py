"""Open files in a folder that another user may write: regular files only, and never through a link.

On AWS the engine has a user of its own and shares this folder with the agent (docs/decisions/0038). A link there could
lead the agent to files that only the agent may read or delete; a FIFO or a device could hold its threads for ever.
Either counts as missing. The folder's own path is trusted: root makes it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_MISSING = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO, errno.ENODEV})


@contextlib.contextmanager
def opened_folder(path: Path | str) -> Iterator[int | None]:
    """Open a folder for the context; its path's last part may not be a link.

    Yields:
        Its descriptor; None where it is missing.

    Raises OSError as `_open`.
    """
    descriptor = _open(path, _FOLDER)
    if descriptor is None:
        yield None
        return
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def open_regular(name: str, folder: int) -> int | None:
    """Open a regular file for reading; None where it is missing. folder: its descriptor. Raises OSError."""
    descriptor = _open(name, _READ, folder)
    if descriptor is not None and not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        return None
    return descriptor


def read_regular(name: str, folder: int, max_bytes: int) -> bytearray | None:
    """Read a file of at most `max_bytes` bytes; None where it is missing. Raises OSError, also for a larger one."""
    descriptor = open_regular(name, folder)
    if descriptor is None:
        return None
    with open(descriptor, "rb", buffering=0) as file:
        size = os.fstat(descriptor).st_size
        if size > max_bytes:
            raise OSError(errno.EFBIG, f"{name} has {size} bytes, more than {max_bytes}")
        data = bytearray(size)
        got = file.readinto(data)
        return data[: got or 0]


def regular_size(name: str, folder: int) -> int | None:
    """Return the bytes of a file; None where it is missing. Raises OSError."""
    try:
        status = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except OSError as error:
        if error.errno in _MISSING:
            return None
        raise
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def _open(path: Path | str, flags: int, below: int | None = None) -> int | None:
    """Open a path, which begins at the descriptor `below`; return None where it is missing. Raises OSError."""
    try:
        return os.open(path, flags, dir_fd=below)
    except OSError as error:
        if error.errno in _MISSING:
            return None
        raise
