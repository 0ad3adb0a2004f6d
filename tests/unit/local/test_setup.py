"""Set-up on a machine that is not ready for it: one line, exit code 2."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from local import setup

SETUP = Path(setup.__file__)


def test_an_old_python_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setup, "MIN_PYTHON", (99, 0))
    with pytest.raises(setup.SetupError, match=r"Python 3\.\d+\.\d+ is too old; install Python 3.11"):
        setup.check_python()


def test_a_missing_node_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    environ = {**os.environ, "PATH": str(tmp_path)}
    done = subprocess.run([sys.executable, str(SETUP)], env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("cannot set up: Node.js with npm is missing; install Node 20")
    assert len(done.stderr.splitlines()) == 1


def test_an_old_node_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, version in (("node", "v18.19.0"), ("npm", "9")):
        (tmp_path / name).write_text(f"#!/bin/sh\necho {version}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(setup.SetupError, match=r"Node v18\.19\.0 is too old"):
        setup.check_node()


def test_a_full_disk_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setup, "REQUIRED_GIB", 10.0**9)
    with pytest.raises(setup.SetupError, match="no disk space"):
        setup.check_space()


def test_a_failed_download_is_named_with_its_reason() -> None:
    with pytest.raises(setup.SetupError, match=r"npm ci failed; check the network and run again \(no route\)"):
        setup.run_step(["/bin/sh", "-c", "echo warning: noise >&2; echo no route >&2; exit 1"], "npm ci failed")


def test_a_step_that_was_done_is_not_done_again(tmp_path: Path) -> None:
    source, stamp, made = tmp_path / "lock", tmp_path / "stamp", []
    source.write_text("a")
    for _ in range(2):
        setup.run_once("thing", [source], stamp, lambda: made.append(source.read_text()))
    source.write_text("b")
    setup.run_once("thing", [source], stamp, lambda: made.append(source.read_text()))
    assert made == ["a", "b"]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout's folder with the command in an environment of its own, whose Python has all packages of this one."""
    root = tmp_path / "a checkout"
    environment = root / ".venv"
    (environment / "bin").mkdir(parents=True)
    (environment / "bin" / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (environment / "bin" / "python").chmod(0o755)
    for name in ("cli", "client", "node_agent", "stacks", "lambdas"):
        (root / name).symlink_to(setup.ROOT / name)
    setup.install_command(environment)
    return root


def test_the_command_is_in_the_environment_and_runs_from_anywhere(checkout: Path, tmp_path: Path) -> None:
    command = checkout / ".venv" / "bin" / "synkti"
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "synkti").symlink_to(command)
    for path in (command, tmp_path / "bin" / "synkti"):
        done = subprocess.run([str(path), "--help"], cwd="/", capture_output=True, text=True, check=False)
        assert (done.returncode, "gateway" in done.stdout) == (0, True), done.stderr
    done = subprocess.run([str(command), "model", "push"], cwd="/", capture_output=True, text=True, check=False)
    assert done.returncode == 2, "its exit code is the command's"


def test_set_up_makes_the_command_and_leaves_one_that_is_right(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = checkout / ".venv" / "bin" / "synkti"
    command.unlink()
    monkeypatch.setattr(setup, "VENV", checkout / ".venv")
    monkeypatch.setattr(setup, "run_once", lambda *step: None)  # the environments are there
    assert setup.main() == 0
    made = command.stat().st_mtime_ns
    setup.install_command(checkout / ".venv")
    assert command.stat().st_mtime_ns == made
    command.write_text("#!/bin/sh\n")
    setup.install_command(checkout / ".venv")
    assert command.read_text() == setup.COMMAND
