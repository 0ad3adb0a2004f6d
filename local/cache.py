"""Where big things live that every checkout can share: the engine's environment, the tiny model, cdk assemblies.

Each is made once, under a lock, in a place of its own; a marker written last says that it is whole, so that an
interrupted making is started again and never taken for a finished one.
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
    """$SYNKTI_CACHE, else $XDG_CACHE_HOME/synkti, else ~/.cache/synkti."""
    given = os.environ.get("SYNKTI_CACHE")
    if given:
        return Path(given)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "synkti"


def build_once(name: str, make: Callable[[Path], None]) -> Path:
    """The folder `name` of the cache; `make` fills it where it is not whole yet."""
    folder = cache_dir() / name
    if (folder / _MARKER).exists():
        return folder
    with _locked(folder.with_name(folder.name + ".lock")):
        if (folder / _MARKER).exists():
            return folder
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        make(folder)
        (folder / _MARKER).touch()
    return folder


def require_space(gib: float) -> None:
    """Raises UserActionRequired where the cache's disk has less than `gib` free."""
    folder = cache_dir()
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free / 2**30
    if free < gib:
        raise UserActionRequired(
            f"no disk space: {folder} has {free:.1f} GiB free, {gib:.0f} are needed; "
            "free some, or set SYNKTI_CACHE to a folder on a larger disk"
        )


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # another run that makes the same; it ends or dies, and the lock with it
        yield
