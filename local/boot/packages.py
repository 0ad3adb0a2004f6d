"""Downloads what a container installs at its boot, once, into the cache, and puts it into the models bucket.

A container has no way to a package index: its node installs from the wheelhouse, as on EC2. The set with the engine is
left out, because the image has the environment of a stand-in in its place. CPython's archive may be a substitute
(local/boot/cpython).
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cli.adapters.package_download import PackageDownloader
from cli.adapters.wheelhouse_bucket import WheelhouseBucket
from cli.errors import CliError
from local.boot.cpython import PIN, RunPython, choose_python
from local.boot.image import IMAGE_PYTHON
from local.cache import build_once, is_built
from local.deploy import ROOT
from local.errors import LocalRunError
from node_agent.contract.wheelhouse import PYTHON_PIN, PackageSet, package_sets

STAND_IN = frozenset({"uvicorn", "click", "h11", "httptools", "orjson", "setuptools", "uvloop"})
"""The fake engine's packages, and what builds the engine's plug-in."""

_PLATFORMS = ("manylinux2014_x86_64", "manylinux_2_17_x86_64", "manylinux_2_28_x86_64", "manylinux_2_34_x86_64")
_MIRROR = "UV_PYTHON_INSTALL_MIRROR"
_DOWNLOAD_TIMEOUT_S = 900.0
_LOCKS = ROOT / "requirements"


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


def installed_sets(pin: Path) -> list[PackageSet]:
    """Return the sets of the wheelhouse that a container installs: all but the engine's. pin: CPython's lock file."""

    def read(name: str) -> bytes:
        return (pin if name == PYTHON_PIN else _LOCKS / name).read_bytes()

    return [each for each in package_sets(read) if each.name != "engine"]


@dataclass(frozen=True)
class Packages:
    """The packages of a run. folder: has a folder for each of `installed_sets`, and the stand-in's packages."""

    folder: Path
    python: RunPython


def ensure_packages(log: Callable[[str], None]) -> Packages:
    """Return the packages, downloaded if they are not in the cache. Raises LocalRunError."""
    python = choose_python(os.environ, lambda: is_built(_name(PIN)), log)
    return Packages(build_once(_name(python.pin), lambda folder: _build(folder, python, log)), python)


def _name(pin: Path) -> str:
    """Return the name of the packages' folder in the cache."""
    content = "".join([*(each.prefix for each in installed_sets(pin)), _stand_in()])
    return f"boot-packages-{hashlib.sha256(content.encode()).hexdigest()[:12]}"


def _stand_in() -> str:
    """Return the lock file of the stand-in's packages."""
    return locked("\n".join((_LOCKS / f"{name}.txt").read_text() for name in ("build", "dev")), STAND_IN)


def _build(folder: Path, python: RunPython, log: Callable[[str], None]) -> None:
    log("the containers' packages are downloaded (once)")
    locks = shutil.copytree(_LOCKS, folder / "locks")
    shutil.copy(python.pin, locks / PYTHON_PIN)
    environ = {**os.environ, **({_MIRROR: python.mirror.as_uri()} if python.mirror is not None else {})}
    downloader = PackageDownloader(locks, folder, environ)
    try:
        for each in installed_sets(python.pin):
            downloader.download(each)
    except CliError as error:
        raise LocalRunError(str(error)) from error
    for scratch in ("pip", "locks"):
        shutil.rmtree(folder / scratch)
    lock = folder / "stand-in.txt"
    lock.write_text(_stand_in())
    _download(lock, folder)


def upload_packages(s3: Any, bucket: str, packages: Path) -> None:
    """Put the sets into the models bucket, as `synkti wheelhouse` does.

    Raises boto3's errors.

    Args:
        s3: boto3's client of the embedded AWS.
        bucket: its name.
        packages: the folder of `ensure_packages`.
    """
    wheelhouse = WheelhouseBucket(s3, bucket)
    for each in installed_sets(PIN):
        wheelhouse.upload(each, packages / each.name, lambda _: None, replace=False)


def _download(lock: Path, folder: Path) -> None:
    command = [
        sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--require-hashes",
        "--only-binary=:all:", "--no-deps", "--implementation", "cp", "--python-version", IMAGE_PYTHON,
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
