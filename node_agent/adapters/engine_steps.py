"""Read the steps of the engine's core, which the plug-in counts in small files.

The writer is `engine_plugin/synkti_engine/steps`.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import struct
from collections.abc import Iterator
from pathlib import Path

STEPS_DIR = "SYNKTI_STEPS_DIR"
"""The variable that holds the folder; the plug-in, which imports nothing of this package, has the same name."""

_COUNT = struct.Struct("<Q")
_MAX_CORES = 64
"""An engine has one for each data-parallel rank; more files are not the engine's."""


class EngineStepFiles:
    """The EngineSteps port. folder: made here; it holds only these files."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self) -> int | None:
        """Return the steps so far, the sum over all cores; None where no file has a count."""
        counts = [count for path in self._files() if (count := _read(path)) is not None]
        return sum(counts) if counts else None

    def forget(self) -> None:
        """Make the folder, and delete the counts in it: they are of an engine that has ended. Errors are ignored."""
        with contextlib.suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
        for path in self._files():
            with contextlib.suppress(OSError):
                path.unlink()

    def _files(self) -> Iterator[Path]:
        try:
            with os.scandir(self._folder) as entries:
                names = [entry.name for entry in itertools.islice(entries, _MAX_CORES) if entry.name.isdigit()]
        except OSError:
            return iter(())
        return (self._folder / name for name in names)


def _read(path: Path) -> int | None:
    """Return a file's count; None where it has none: the file is being made, or is not the plug-in's.

    The engine may be another user: no link is followed, and a FIFO does not hold the agent's loop.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb", buffering=0) as file:
            data = file.read(_COUNT.size + 1)
    except OSError:
        return None
    return _COUNT.unpack(data)[0] if data is not None and len(data) == _COUNT.size else None
