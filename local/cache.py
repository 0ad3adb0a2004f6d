"""Caches what every checkout can share: the engine's environment, the tiny model, cdk assemblies.

Each entry is built once, under a lock, in a folder of its own. A marker is written last, so that an interrupted build
is started again and never mistaken for a complete one.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from local.errors import UserActionRequired

_MARKER = ".complete"


def cache_dir() -> Path:
    """Return $SYNKTI_CACHE, else $XDG_CACHE_HOME/synkti, else ~/.cache/synkti."""
    given = os.environ.get("SYNKTI_CACHE")
    if given:
        return Path(given)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "synkti"


def build_once(name: str, build: Callable[[Path], None]) -> Path:
    """Return the cache folder `name`; call `build` to fill it if it is not complete yet."""
    folder = cache_dir() / name
    if (folder / _MARKER).exists():
        return folder
    with locked(folder.with_name(folder.name + ".lock")):
        if (folder / _MARKER).exists():
            return folder
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        build(folder)
        (folder / _MARKER).touch()
    return folder


def is_built(name: str) -> bool:
    """Return whether the cache has a complete folder `name`."""
    return (cache_dir() / name / _MARKER).exists()


def require_space(gib: float) -> None:
    """Raise UserActionRequired if the disk of the cache has less than `gib` free."""
    folder = cache_dir()
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free / 2**30
    if free < gib:
        raise UserActionRequired(
            f"no disk space: {folder} has {free:.1f} GiB free, {gib:.0f} are needed; "
            "free some, or set SYNKTI_CACHE to a folder on a larger disk"
        )


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on a file, which is created, for the block. Other processes wait for it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # the lock ends with its process
        yield
