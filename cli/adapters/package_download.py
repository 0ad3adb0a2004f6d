"""Download the packages of a lock file with pip, and CPython's archive, for the machines that nodes are."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from cli.core.wheelhouse import PythonPin, download_arguments, parse_pin
from cli.errors import Failed
from node_agent.contract.wheelhouse import PYTHON_PIN, PackageSet

_TIMEOUT_S = 2 * 3_600
"""Of one set: some 4 GB."""

_MAX_ARCHIVE_BYTES = 256 * 2**20
_CHUNK_BYTES = 2**20


class PackageDownloader:
    """Downloads sets of packages.

    Args:
        requirements: the folder of the lock files.
        scratch: an empty folder with room for some GB.
        environ: the environment of pip, whose configuration names the package index.
    """

    def __init__(self, requirements: Path, scratch: Path, environ: Mapping[str, str]) -> None:
        self._requirements = requirements
        self._scratch = scratch
        self._environ = environ

    def download(self, package_set: PackageSet) -> Path:
        """Return a folder with exactly the files of the set, each compared with its hash. Raises Failed."""
        folder = self._scratch / package_set.name
        folder.mkdir()
        pin = self._pin()
        if package_set.name == "tools":
            self._download_python(pin, folder)
        lock = self._requirements / package_set.requirements
        command = [str(self._pip()), "-m", "pip", *download_arguments(str(lock), str(folder), pin.minor)]
        self._run(command, f"the packages of requirements/{lock.name} cannot be downloaded")
        return folder

    def _pin(self) -> PythonPin:
        try:
            return parse_pin((self._requirements / PYTHON_PIN).read_text(encoding="utf-8"))
        except ValueError as error:
            raise Failed(str(error)) from error

    def _pip(self) -> Path:
        """Return the Python of an environment with pip: that of the command may have none. Raises Failed."""
        python = self._scratch / "pip" / "bin" / "python"
        if not python.exists():
            command = [sys.executable, "-m", "venv", str(self._scratch / "pip")]
            self._run(command, "pip is not available; on Debian and Ubuntu install python3-venv")
        return python

    def _run(self, command: list[str], problem: str) -> None:
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, timeout=_TIMEOUT_S, env=dict(self._environ)
            )
        except subprocess.TimeoutExpired as error:
            raise Failed(f"{problem}: no end after {_TIMEOUT_S} s", "check the network and run this again") from error
        if done.returncode:
            words = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()
            lines = [line for line in words if line.lstrip().startswith(("ERROR", "Expected", "Got"))] or words[-1:]
            raise Failed(f"{problem}: {' '.join(' '.join(lines).split())}", "check the network and run this again")

    def _download_python(self, pin: PythonPin, folder: Path) -> None:
        url, target = pin.url(self._environ), folder / pin.path
        target.parent.mkdir()
        digest, size = hashlib.sha256(), 0
        try:
            with urllib.request.urlopen(url, timeout=60) as answer, target.open("wb") as file:  # noqa: S310 # a constant, or the user's own mirror
                while chunk := answer.read(_CHUNK_BYTES):
                    size += len(chunk)
                    if size > _MAX_ARCHIVE_BYTES:
                        raise Failed(f"{url} is larger than {_MAX_ARCHIVE_BYTES} bytes")
                    digest.update(chunk)
                    file.write(chunk)
        except (OSError, ValueError) as error:
            raise Failed(
                f"{url} cannot be downloaded: {error}",
                "check the network, or set UV_PYTHON_INSTALL_MIRROR to a mirror of python-build-standalone's releases",
            ) from error
        if digest.hexdigest() != pin.sha256:
            raise Failed(f"{url} has the SHA-256 {digest.hexdigest()}, and requirements/{PYTHON_PIN} has another")
