"""Run mypy with a cache that outlives the checkout: `python -m checks.type_check [mypy's arguments]`.

mypy checks a file again only if its content changed, or that of what it imports. A fresh checkout does not know what
was checked, and takes twenty times as long. So it begins with a copy of the cache that the last fresh checkout left.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from local.cache import cache_dir, locked

ROOT = Path(__file__).parent.parent
LOCK = ROOT / "requirements" / "dev.txt"


def shared_folder() -> Path:
    """Return the folder of the shared cache: one for each version of Python and of the locked packages."""
    digest = hashlib.sha256(LOCK.read_bytes() + sys.version.encode()).hexdigest()[:12]
    return cache_dir() / f"mypy-{digest}"


def check_types(own: Path, shared: Path, run: Callable[[], int]) -> int:
    """Run mypy.

    Args:
        own: mypy's cache in this checkout; where there is none, it begins as a copy of `shared`.
        shared: becomes a copy of `own` if the checkout had no cache, and mypy found nothing.
        run: runs mypy and returns its exit code.

    Returns:
        mypy's exit code.
    """
    fresh = not own.exists()
    if fresh:
        _copy(shared, own, shared)
    code = run()
    if fresh and code == 0:
        _copy(own, shared, shared)
    return code


def _copy(source: Path, target: Path, shared: Path) -> None:
    """Replace `target` by a copy of `source`, if that exists, while no other checkout does the same."""
    with locked(shared.with_name(shared.name + ".lock")):
        if not source.exists():
            return
        part = target.with_name(target.name + ".part")  # renamed when it is complete, since a copy may be interrupted
        shutil.rmtree(part, ignore_errors=True)
        shutil.copytree(source, part)
        shutil.rmtree(target, ignore_errors=True)
        part.rename(target)


def main(arguments: Sequence[str]) -> int:
    """Check the given paths, or the whole checkout; return mypy's exit code."""
    command = [sys.executable, "-m", "mypy", *(arguments or (".",))]
    own = ROOT / ".mypy_cache"
    return check_types(own, shared_folder(), lambda: subprocess.run(command, cwd=ROOT, check=False).returncode)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
