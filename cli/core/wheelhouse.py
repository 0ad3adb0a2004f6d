"""Decide how the packages of a wheelhouse are downloaded, and whether a bucket has all of a set."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from node_agent.contract.models import parse_manifest

_RELEASES = "https://github.com/astral-sh/python-build-standalone/releases/download"
"""Where the project that uv takes CPython from publishes it."""

_PIN = re.compile(
    r"([0-9a-f]{64})  (\d{8}/cpython-(\d+\.\d+)\.\d+\+\d{8}-x86_64-unknown-linux-gnu-[a-z_]+\.tar\.gz)\n?"
)

_PLATFORMS = (
    *(f"manylinux_2_{minor}_x86_64" for minor in range(35, 4, -1)),
    "manylinux2014_x86_64",
    "manylinux2010_x86_64",
    "manylinux1_x86_64",
)
"""What the wheels of a node may be built for: glibc 2.35, as the engine's lock file, and older."""


@dataclass(frozen=True)
class PythonPin:
    """The CPython of the nodes. path: below the releases; minor: its version, such as 3.12."""

    sha256: str
    path: str
    minor: str

    def url(self, environ: Mapping[str, str]) -> str:
        """Return its address; uv's own variable names another mirror of the releases."""
        mirror = environ.get("UV_PYTHON_INSTALL_MIRROR") or _RELEASES
        return f"{mirror.rstrip('/')}/{self.path.replace('+', '%2B')}"


def parse_pin(text: str) -> PythonPin:
    """Parse requirements/python.txt. Raises ValueError."""
    match = _PIN.fullmatch(text)
    if match is None:
        raise ValueError("requirements/python.txt is not one line of a SHA-256 and an archive of CPython for x86-64")
    return PythonPin(match[1], match[2], match[3])


def download_arguments(lock: str, folder: str, python: str) -> list[str]:
    """Return pip's arguments that download a lock file's wheels for a node, on whatever machine pip runs.

    Args:
        lock: the lock file.
        folder: where the wheels go.
        python: the node's minor version.
    """
    words = ["download", "--quiet", "--disable-pip-version-check", "--no-cache-dir", "--no-deps", "--require-hashes"]
    words += ["--requirement", lock, "--dest", folder, "--only-binary", ":all:"]
    words += ["--implementation", "cp", "--python-version", python]
    return [*words, *(word for platform in _PLATFORMS for word in ("--platform", platform))]


def is_complete(manifest: str, sizes: Mapping[str, int]) -> bool:
    """Return whether a bucket has all files of a manifest. sizes: of the objects, by their paths."""
    try:
        files = parse_manifest(manifest)
    except ValueError:
        return False
    return all(sizes.get(file.path) == file.size for file in files)
