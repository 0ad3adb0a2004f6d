"""Downloads the packages that a container installs at its boot, once, into the cache.

A container has no way to a package index. Its machine image has settings of pip and uv that name a folder instead,
with exactly the files that the lock files name; the boot scripts are not changed.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from local.cache import build_once
from local.deploy import ROOT
from local.errors import LocalRunError

PYTHON = "3.11"
"""The image's: Debian 12 has it."""

STAND_IN = frozenset({"uvicorn", "click", "h11", "httptools", "orjson", "setuptools", "uvloop"})
"""The fake engine's packages, and what builds the engine's plug-in."""

_PLATFORMS = ("manylinux2014_x86_64", "manylinux_2_17_x86_64", "manylinux_2_28_x86_64", "manylinux_2_34_x86_64")
_DOWNLOAD_TIMEOUT_S = 900.0


def locked(lock: str, names: Iterable[str]) -> str:
    """Return the entries of these packages of a lock file, with their hashes. Pure. Raises ValueError if one misses."""
    wanted = set(names)
    found: dict[str, list[str]] = {}
    entry: list[str] = []
    for line in lock.splitlines():
        if line and not line[0].isspace() and not line.startswith("#"):
            entry = []
            found.setdefault(line.partition("==")[0].strip(), entry)
        if not line.lstrip().startswith("#"):
            entry.append(line)
    if absent := wanted - set(found):
        raise ValueError(f"the lock file does not have {', '.join(sorted(absent))}")
    return "\n".join(line for name in sorted(wanted) for line in found[name]) + "\n"


def ensure_packages(log: Callable[[str], None]) -> Path:
    """Return a folder with the packages of the agent's, uv's and the fake engine's lock files. Raises LocalRunError."""
    locks = ROOT / "requirements"
    requirements = {
        "uv": (locks / "bootstrap.txt").read_text(),
        "agent": (locks / "agent.txt").read_text(),
        "stand-in": locked("\n".join((locks / f"{name}.txt").read_text() for name in ("build", "dev")), STAND_IN),
    }
    digest = hashlib.sha256("".join(requirements.values()).encode()).hexdigest()[:12]

    def download(folder: Path) -> None:
        log("the containers' packages are downloaded (once)")
        for name, text in requirements.items():
            lock = folder / f"{name}.txt"
            lock.write_text(text)
            _download(lock, folder)

    return build_once(f"boot-packages-{digest}", download)


def _download(lock: Path, folder: Path) -> None:
    command = [
        sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--require-hashes",
        "--only-binary=:all:", "--no-deps", "--implementation", "cp", "--python-version", PYTHON,
        *(word for platform in _PLATFORMS for word in ("--platform", platform)),
        "--dest", str(folder), "--requirement", str(lock),
    ]  # fmt: skip
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_DOWNLOAD_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise LocalRunError(f"{lock.name}: no end of the download after {_DOWNLOAD_TIMEOUT_S:.0f} s") from error
    if done.returncode:
        last = (done.stderr.strip() or "no output").splitlines()[-1]
        raise LocalRunError(f"{lock.name}: a package cannot be downloaded; check the network and run again ({last})")
