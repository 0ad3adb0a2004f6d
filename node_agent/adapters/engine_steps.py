"""The steps of the engine's core, as the plug-in counts them in small files (`engine_plugin/synkti_engine/steps`)."""

from __future__ import annotations

import contextlib
import itertools
import os
import struct
from collections.abc import Iterator
from pathlib import Path

STEPS_DIR = "SYNKTI_STEPS_DIR"
"""The variable that tells the engine where; the plug-in, which imports nothing of this package, has the same name."""

_COUNT = struct.Struct("<Q")
_MAX_CORES = 64
"""An engine has one for each data-parallel rank; more files are somebody else's."""


class EngineStepFiles:
    """The EngineSteps port. folder: made here; nothing but these files is in it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self) -> int | None:
        counts = [count for path in self._files() if (count := _read(path)) is not None]
        return sum(counts) if counts else None

    def forget(self) -> None:
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
    """None where it is no count: the file is being made, or is not the plug-in's."""
    try:
        with path.open("rb") as file:
            data = file.read(_COUNT.size + 1)
    except OSError:
        return None
    return _COUNT.unpack(data)[0] if len(data) == _COUNT.size else None
