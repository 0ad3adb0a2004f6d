"""A release and its wheelhouse, small and real: uv, CPython's archive, a wheel for the agent and one for the engine.

uv is that of the tests' environment, in a wheel. The archive's interpreter starts the tests' own, since one of 30 MB
cannot be downloaded in a test; uv takes it by the document that it can read archives' hashes from.
"""

from __future__ import annotations

import hashlib
import io
import json
import platform
import shutil
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from node_agent.contract.wheelhouse import package_sets

VERSION = platform.python_version()
_MINOR = VERSION.rpartition(".")[0]
_RELEASES = "https://github.com/astral-sh/python-build-standalone/releases/download/"
_SYSCONFIG = "_sysconfigdata__linux_x86_64-linux-gnu.py"
_SYSCONFIG_DATA = (
    b"# system configuration generated and used by the sysconfig module\nbuild_time_vars = {\n    'AR': 'ar',\n}\n"
)
"""uv corrects the paths in it."""

_UV_TAG = "py3-none-manylinux_2_17_x86_64"
_ARCHIVE = f"20261110/cpython-{VERSION}+20261110-x86_64-unknown-linux-gnu-install_only_stripped.tar.gz"


@dataclass(frozen=True)
class Wheelhouse:
    """requirements: the lock files; indexed: a folder with all wheels, as an index has them; downloads: for uv."""

    requirements: Path
    indexed: Path
    archive: Path
    downloads: Path

    def store(self, bucket: Path) -> None:
        """Put all of it into a folder in the place of the bucket, where nodes look for it."""
        for package_set in package_sets(lambda name: (self.requirements / name).read_bytes()):
            folder = bucket / package_set.prefix
            folder.mkdir(parents=True)
            lock = (self.requirements / package_set.requirements).read_text()
            for wheel in self.indexed.glob("*.whl"):
                if sha256(wheel.read_bytes()) in lock:
                    shutil.copy(wheel, folder)
            if package_set.name == "tools":
                (folder / _ARCHIVE).parent.mkdir()
                shutil.copy(self.archive, folder / _ARCHIVE)
            (folder / "manifest.sha256").write_text("as it is written last\n")


def sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def make_wheelhouse(folder: Path) -> Wheelhouse:
    requirements, indexed = folder / "requirements", folder / "index"
    for each in (requirements, indexed):
        each.mkdir(parents=True)
    uv = Path(sys.executable).with_name("uv").read_bytes()
    wheels = {
        "bootstrap": _wheel(indexed, "uv", "0.13.9", {"uv-0.13.9.data/scripts/uv": uv}, _UV_TAG),
        "agent": _wheel(indexed, "a_client", "1.0", {"a_client.py": b"ANSWER = 42\n"}),
        "engine": _wheel(indexed, "an_engine", "2.0", {"an_engine.py": b"ANSWER = 43\n"}),
    }
    for name, wheel in wheels.items():
        package, version = wheel.name.split("-")[:2]
        lock = f"{package.replace('_', '-')}=={version} \\\n    --hash=sha256:{sha256(wheel.read_bytes())}\n"
        (requirements / f"{name}.txt").write_text(lock)
    archive = folder / "mirror" / _ARCHIVE
    archive.parent.mkdir(parents=True)
    archive.write_bytes(_interpreter())
    digest = sha256(archive.read_bytes())
    (requirements / "python.txt").write_text(f"{digest}  {_ARCHIVE}\n")
    (folder / "downloads.json").write_text(json.dumps({f"cpython-{VERSION}-linux-x86_64-gnu": _described(digest)}))
    return Wheelhouse(requirements, indexed, archive, folder / "downloads.json")


def _wheel(folder: Path, name: str, version: str, files: dict[str, bytes], tag: str = "py3-none-any") -> Path:
    info = f"{name}-{version}.dist-info"
    path = folder / f"{name}-{version}-{tag}.whl"
    every = {
        **files,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode(),
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n".encode(),
    }
    record = "".join(f"{each},,\n" for each in [*every, f"{info}/RECORD"])
    with zipfile.ZipFile(path, "w") as archive:
        for each, body in {**every, f"{info}/RECORD": record.encode()}.items():
            archive.writestr(each, body)
    return path


def _interpreter() -> bytes:
    script = f'#!/bin/sh\nexec {sys.executable} "$@"\n'.encode()
    files = {f"python/bin/python{_MINOR}": script, f"python/lib/python{_MINOR}/{_SYSCONFIG}": _SYSCONFIG_DATA}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, body in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(body), 0o755
            archive.addfile(entry, io.BytesIO(body))
        link = tarfile.TarInfo("python/bin/python3")
        link.type, link.linkname = tarfile.SYMTYPE, f"python{_MINOR}"
        archive.addfile(link)
    return buffer.getvalue()


def _described(digest: str) -> dict[str, object]:
    major, minor, patch = map(int, VERSION.split("."))
    return {
        "name": "cpython",
        "arch": {"family": "x86_64", "variant": None},
        "os": "linux",
        "libc": "gnu",
        "major": major,
        "minor": minor,
        "patch": patch,
        "prerelease": "",
        "url": _RELEASES + _ARCHIVE.replace("+", "%2B"),
        "sha256": digest,
        "variant": None,
        "build": "20261110",
    }
