"""The CPython of a run's wheelhouse: the release's archive, or a substitute where that cannot be downloaded.

The substitute is made of a Python of this machine, of the release's minor version, in the archive's form. It has
another patch version and another hash than requirements/python.txt, so a run with it mounts another line over that file
in its own namespace; and uv, which accepts only archives that it knows, reads this one's hash from a document in the
image. What downloads, verifies and installs it is what installs the release's.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from cli.core.wheelhouse import PythonPin, parse_pin
from local.cache import build_once
from local.deploy import ROOT
from local.errors import LocalRunError, UserActionRequired
from node_agent.contract.wheelhouse import PYTHON_PIN

PIN = ROOT / "requirements" / PYTHON_PIN
_RELEASES = "https://github.com/astral-sh/python-build-standalone/releases/download"
"""Of the addresses in uv's document, which `uv python install --mirror` replaces."""

_PROBE_TIMEOUT_S = 15.0
_QUERY = (
    "import json, os, sys, sysconfig; program = os.path.realpath(getattr(sys, '_base_executable', sys.executable)); "
    "print(json.dumps([program, sys.base_prefix, list(sys.version_info[:3]), sysconfig.get_path('stdlib')]))"
)
"""The program itself: what was found may be a script that starts it, or an environment's link."""

_ORIGIN = "$ORIGIN/../lib"
"""Where the archive's interpreter looks for its library, by the path of its own file."""

_LEFT_OUT = ("test", "idlelib", "tkinter", "turtledemo", "config-*", "__pycache__", "site-packages", "dist-packages")


@dataclass(frozen=True)
class RunPython:
    """The CPython that a run's nodes install.

    pin: the file that names it; mirror: of its archive, None for the release's usual address; downloads: uv's document
    of archives that it accepts, empty for uv's own; title: a few words.
    """

    pin: Path
    mirror: Path | None
    downloads: str
    title: str

    @property
    def is_substitute(self) -> bool:
        """True where it is not the release's archive."""
        return bool(self.downloads)


@dataclass(frozen=True)
class _Installed:
    """A Python of this machine."""

    program: Path
    prefix: Path
    version: tuple[int, int, int]
    library: Path


def choose_python(environ: Mapping[str, str], is_cached: Callable[[], bool], log: Callable[[str], None]) -> RunPython:
    """Return the release's CPython, or a substitute where its archive cannot be downloaded.

    Args:
        environ: may name a mirror (UV_PYTHON_INSTALL_MIRROR).
        is_cached: returns whether the run's packages have the release's archive already.
        log: called with a line.

    Returns:
        What the nodes install.

    Raises:
        UserActionRequired: there is neither.
    """
    pin = parse_pin(PIN.read_text())
    release = RunPython(PIN, None, "", f"the release's archive of CPython ({Path(pin.path).name})")
    url = pin.url(environ)
    if is_cached() or _answers(url):
        return release
    log(f"{url} cannot be downloaded (UV_PYTHON_INSTALL_MIRROR names a mirror)")
    found = _find(pin.minor)
    if found is None:
        raise UserActionRequired(
            f"nodes install CPython {pin.minor} from the wheelhouse, and there is neither its archive nor a Python "
            f"{pin.minor} on this machine: set UV_PYTHON_INSTALL_MIRROR, or install Python {pin.minor}"
        )
    substitute = _substitute(found, pin, log)
    log(f"in its place: {substitute.title}")
    return substitute


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=_PROBE_TIMEOUT_S) as answer:  # a constant, or the user's own mirror
            return bool(answer.read(1))
    except (OSError, ValueError):
        return False


def _find(minor: str) -> _Installed | None:
    """Return a Python of this minor version that runs: of PATH, or beside the one that runs this."""
    name = f"python{minor}"
    folders = [Path(folder) for folder in os.get_exec_path()]
    base = Path(sys.base_prefix)  # version managers keep their Pythons side by side
    beside = sorted([*base.parent.glob(f"*/bin/{name}"), *base.parent.parent.glob(f"*/*/bin/{name}")])
    for program in [*(folder / name for folder in folders), *beside]:
        if found := _inspect(program):
            return found
    return None


def _inspect(program: Path) -> _Installed | None:
    if not program.is_file():
        return None
    try:
        done = subprocess.run(
            [str(program), "-I", "-c", _QUERY], capture_output=True, text=True, timeout=_PROBE_TIMEOUT_S, check=True
        )
        real, prefix, version, library = json.loads(done.stdout)
    except (OSError, ValueError, subprocess.SubprocessError):  # as a version manager's shim without that version
        return None
    return _Installed(Path(real), Path(prefix), tuple(version), Path(library))


def _substitute(python: _Installed, pin: PythonPin, log: Callable[[str], None]) -> RunPython:
    version = ".".join(map(str, python.version))
    release = pin.path.partition("/")[0]
    path = f"{release}/cpython-{version}+{release}-x86_64-unknown-linux-gnu-install_only_stripped.tar.gz"
    digest = hashlib.sha256(f"{python} {path} {_LEFT_OUT}".encode()).hexdigest()[:12]

    def build(folder: Path) -> None:
        log(f"a substitute of CPython's archive is made of {python.prefix} (once)")
        archive = folder / "mirror" / path
        archive.parent.mkdir(parents=True)
        _write_archive(python, archive)
        sha256 = hashlib.sha256(archive.read_bytes()).hexdigest()
        (folder / PYTHON_PIN).write_text(f"{sha256}  {path}\n")
        (folder / "downloads.json").write_text(downloads_document(python.version, path, sha256))

    folder = build_once(f"boot-cpython-{digest}", build)
    title = f"a substitute of CPython's archive, made of this machine's {version}"
    return RunPython(folder / PYTHON_PIN, folder / "mirror", (folder / "downloads.json").read_text(), title)


def downloads_document(version: tuple[int, int, int], path: str, sha256: str) -> str:
    """Return uv's document of the archives that it accepts, with this one. Pure. path: below the releases."""
    major, minor, patch = version
    entry = {
        "name": "cpython",
        "arch": {"family": "x86_64", "variant": None},
        "os": "linux",
        "libc": "gnu",
        "major": major,
        "minor": minor,
        "patch": patch,
        "prerelease": "",
        "url": f"{_RELEASES}/{path.replace('+', '%2B')}",
        "sha256": sha256,
        "variant": None,
        "build": path.partition("/")[0],
    }
    return json.dumps({f"cpython-{major}.{minor}.{patch}-linux-x86_64-gnu": entry})


def _write_archive(python: _Installed, archive: Path) -> None:
    """Write an archive in the form of python-build-standalone's. Raises LocalRunError."""
    minor = ".".join(map(str, python.version[:2]))
    tree = archive.parent / "python"
    (tree / "bin").mkdir(parents=True)
    program = tree / "bin" / f"python{minor}"
    program.write_bytes(relocated(python.program.read_bytes(), str(python.prefix / "lib")))
    program.chmod(0o755)
    for name in ("python3", "python"):
        (tree / "bin" / name).symlink_to(program.name)
    leave_out = shutil.ignore_patterns(*_LEFT_OUT)
    shutil.copytree(python.library, tree / "lib" / f"python{minor}", ignore=leave_out)
    headers = python.prefix / "include" / f"python{minor}"
    if headers.is_dir():
        shutil.copytree(headers, tree / "include" / headers.name)
    for library in (python.prefix / "lib").glob(f"libpython{minor}.so*"):
        shutil.copy2(library, tree / "lib" / library.name, follow_symlinks=False)
    check = [str(program), "-I", "-c", "import ctypes, ssl, sys; print(sys.prefix)"]
    done = subprocess.run(check, capture_output=True, text=True, timeout=_PROBE_TIMEOUT_S, check=False)
    if done.stdout.strip() != str(tree):
        raise LocalRunError(f"{python.prefix} cannot be moved into an archive: {done.stderr or done.stdout}")
    with tarfile.open(archive, "w:gz", compresslevel=1) as file:
        file.add(tree, "python")
    shutil.rmtree(tree)


def relocated(program: bytes, library: str) -> bytes:
    """Return an interpreter that finds its library beside itself, if it has one.

    Pure.

    Args:
        program: an ELF file's content.
        library: the folder of its library, which the file may name.

    Returns:
        The file's content, as long as before.

    Raises:
        LocalRunError: the path in the program has no room for the other one.
    """
    named = library.encode() + b"\0"
    if named not in program:
        return program
    if len(library) < len(_ORIGIN):
        raise LocalRunError(f"the path {library} in the interpreter is too short to be replaced")
    return program.replace(named, _ORIGIN.encode().ljust(len(named), b"\0"))
