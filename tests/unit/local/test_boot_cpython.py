"""The CPython of a boot run: the release's archive, or a substitute made of a Python of this machine."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from cli.core.wheelhouse import parse_pin
from local.boot import cpython
from local.boot.cpython import PIN, choose_python, downloads_document, relocated
from local.boot.packages import installed_sets
from local.errors import LocalRunError, UserActionRequired

MINOR = f"{sys.version_info.major}.{sys.version_info.minor}"
UNREACHABLE = {"UV_PYTHON_INSTALL_MIRROR": "http://127.0.0.1:9"}


def test_an_archive_of_a_mirror_is_the_releases(tmp_path: Path) -> None:
    archive = tmp_path / parse_pin(PIN.read_text()).path
    archive.parent.mkdir()
    archive.write_bytes(b"x")
    python = choose_python({"UV_PYTHON_INSTALL_MIRROR": tmp_path.as_uri()}, lambda: False, print)
    assert (python.pin, python.mirror, python.is_substitute) == (PIN, None, False)


def test_what_is_cached_is_not_requested() -> None:
    assert not choose_python(UNREACHABLE, lambda: True, print).is_substitute


def test_without_archive_and_python_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpython, "_find", lambda minor: None)
    with pytest.raises(UserActionRequired, match=r"set UV_PYTHON_INSTALL_MIRROR, or install Python 3\.12"):
        choose_python(UNREACHABLE, lambda: False, lambda _: None)


def test_a_substitute_is_installed_like_the_releases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release = tmp_path / "python.txt"
    path = f"20261110/cpython-{MINOR}.99+20261110-x86_64-unknown-linux-gnu-install_only.tar.gz"
    release.write_text(f"{'0' * 64}  {path}\n")
    monkeypatch.setattr(cpython, "PIN", release)
    monkeypatch.setenv("SYNKTI_CACHE", str(tmp_path / "cache"))
    lines: list[str] = []
    python = choose_python(UNREACHABLE, lambda: False, lines.append)
    assert any("cannot be downloaded" in line for line in lines)
    assert python.is_substitute
    assert python.mirror is not None
    pin = parse_pin(python.pin.read_text())
    assert pin.minor == MINOR
    assert installed_sets(python.pin)[0].prefix != installed_sets(PIN)[0].prefix
    with tarfile.open(python.mirror / pin.path) as file:
        names = file.getnames()
    assert f"python/lib/python{MINOR}/os.py" in names
    assert not [name for name in names if "site-packages" in name or f"/python{MINOR}/test/" in name]
    program = installed_by_uv(tmp_path, python.downloads, python.mirror)
    prefix = subprocess.run([str(program), "-c", "import sys; print(sys.prefix)"], stdout=subprocess.PIPE, check=True)
    assert prefix.stdout.decode().strip() == str(program.parents[1])


def installed_by_uv(folder: Path, downloads: str, mirror: Path) -> Path:
    """Install the archive as install.sh does; return its interpreter."""
    (folder / "downloads.json").write_text(downloads)
    environ = {"UV_PYTHON_DOWNLOADS_JSON_URL": str(folder / "downloads.json"), "UV_NO_CONFIG": "1", "HOME": str(folder)}
    uv, (entry,) = str(Path(sys.executable).with_name("uv")), json.loads(downloads).values()
    install = [uv, "python", "install", "--quiet", "--offline", "--no-bin", "--mirror", mirror.as_uri()]
    version = f"{entry['major']}.{entry['minor']}.{entry['patch']}"
    subprocess.run([*install, "--install-dir", str(folder / "pythons"), version], env=environ, check=True)
    (program,) = (folder / "pythons").glob(f"cpython-{version}-*/bin/python3")
    return program


def test_an_interpreter_finds_its_library_beside_itself() -> None:
    program = b"\x7fELF\0/opt/pythons/3.12/lib\0/opt/pythons/3.12/lib64\0"
    moved = relocated(program, "/opt/pythons/3.12/lib")
    assert moved == b"\x7fELF\0$ORIGIN/../lib\0\0\0\0\0\0\0\0/opt/pythons/3.12/lib64\0"
    assert relocated(b"static", "/usr/lib") == b"static"
    with pytest.raises(LocalRunError, match="too short"):
        relocated(b"/usr/lib\0", "/usr/lib")


def test_the_document_names_the_archive_below_the_releases() -> None:
    document = json.loads(downloads_document((3, 12, 1), "20261110/cpython-3.12.1+20261110-x.tar.gz", "ab"))
    entry = document["cpython-3.12.1-linux-x86_64-gnu"]
    assert entry["url"].endswith("/releases/download/20261110/cpython-3.12.1%2B20261110-x.tar.gz")
    assert (entry["sha256"], entry["build"]) == ("ab", "20261110")
