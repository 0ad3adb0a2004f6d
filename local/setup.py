"""Makes a fresh clone ready: the Python environment from its lock file, the pinned CDK CLI. Standard library only.

    python3 local/setup.py

Runs before anything is installed, so it imports nothing of the project. A step that was done is not done again: a
stamp holds the hash of what it was made from. What is wrong with the machine is said in one line, with exit code 2.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import time
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
MIN_PYTHON = (3, 11)
MIN_NODE = 20
REQUIRED_GIB = 2.0
EXIT_USER_ACTION = 2
COMMAND = """#!/bin/sh
'''exec' "$(dirname "$(readlink -f "$0")")/python" "$0" "$@"
' '''
import os
import sys

beside = os.path.abspath(__file__)
places = [os.path.dirname(os.path.dirname(os.path.dirname(path))) for path in (beside, os.path.realpath(beside))]
root = next(place for place in places if os.path.isdir(os.path.join(place, "cli")))
sys.path[:0] = [root, os.path.join(root, "client")]
from cli.main import run

run()
"""


class SetupError(Exception):
    """One line that says what to do."""


def main() -> int:
    """Run all steps; return 0, EXIT_USER_ACTION if the user has to fix something first, or 130 if interrupted."""
    try:
        check_python()
        check_node()
        check_space()
        run_once("Python environment", [ROOT / "requirements" / "dev.txt"], VENV / ".stamp", _install_python)
        install_command(VENV)
        run_once("CDK command-line tool", [ROOT / "package-lock.json"], ROOT / "node_modules" / ".stamp", _install_node)
    except SetupError as problem:
        print(f"cannot set up: {problem}", file=sys.stderr)
        return EXIT_USER_ACTION
    except KeyboardInterrupt:
        return 130
    return 0


def check_python() -> None:
    """Raise SetupError where this Python is too old, or cannot create environments with pip."""
    if sys.version_info < MIN_PYTHON:
        found = ".".join(map(str, sys.version_info[:3]))
        raise SetupError(f"Python {found} is too old; install Python 3.11 or newer, or run make PYTHON=python3.11")
    try:
        import ensurepip  # noqa: F401, PLC0415 # Debian splits it from python3; say so before venv fails obscurely
    except ImportError:
        raise SetupError("this Python has no ensurepip; install the package python3-venv") from None


def check_node() -> None:
    """Raise SetupError where Node.js or npm is missing or too old."""
    node = shutil.which("node")
    if node is None or shutil.which("npm") is None:
        raise SetupError("Node.js with npm is missing; install Node 20 or newer (the CDK CLI runs on it)")
    found = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    if int(found.lstrip("v").split(".")[0]) < MIN_NODE:
        raise SetupError(f"Node {found} is too old; install Node 20 or newer")


def check_space() -> None:
    """Raise SetupError where the disk has less than REQUIRED_GIB free."""
    free = shutil.disk_usage(ROOT).free / 2**30
    if free < REQUIRED_GIB:
        raise SetupError(f"no disk space: {free:.1f} GiB free at {ROOT}, {REQUIRED_GIB:.0f} are needed")


def run_once(what: str, sources: list[Path], stamp: Path, make) -> None:  # type: ignore[no-untyped-def] # old Pythons get this far
    """Call `make` unless the stamp has the hash of the sources and of this Python. what: names the step in messages."""
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources) + sys.version.encode()).hexdigest()
    if stamp.exists() and stamp.read_text() == digest:
        return
    print(f"set-up: {what} ...", flush=True)
    began = time.monotonic()
    make()
    stamp.write_text(digest)
    print(f"set-up: {what} done in {time.monotonic() - began:.0f} s", flush=True)


def _install_python() -> None:
    """From the lock file, every hash checked. uv does it in seconds, pip in minutes; pip brings uv."""
    venv.EnvBuilder(with_pip=True, clear=True).create(VENV)
    python = str(VENV / "bin" / "python")
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--require-hashes"]
    run_step([*pip, "--requirement", str(ROOT / "requirements" / "bootstrap.txt")], "uv could not be downloaded")
    uv = [str(VENV / "bin" / "uv"), "pip", "install", "--quiet", "--python", python, "--require-hashes"]
    uv.append("--compile-bytecode")  # else every process compiles aws_cdk anew, where PYTHONDONTWRITEBYTECODE is set
    run_step([*uv, "--requirement", str(ROOT / "requirements" / "dev.txt")], "a package could not be downloaded")
    (packages,) = VENV.glob("lib/python3*/site-packages")
    (packages / "synkti-checkout.pth").write_text(f"{ROOT / 'client'}\n")  # the client is a package of its own


def install_command(environment: Path) -> None:
    """The `synkti` command of the checkout that the environment is in; compared at each set-up, since that is cheap."""
    script = environment / "bin" / "synkti"
    if not script.is_file() or script.read_text() != COMMAND:
        script.write_text(COMMAND)
        script.chmod(0o755)


def _install_node() -> None:
    run_step(["npm", "ci", "--silent", "--no-audit", "--no-fund"], "npm ci failed")


def run_step(command: list[str], problem: str) -> None:
    """Run a command to its end. problem: begins the message. Raises SetupError with the last line of its output."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env={**os.environ})
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()
        reasons = [line for line in said if "warning" not in line.lower()] or said
        raise SetupError(f"{problem}; check the network and run again ({reasons[-1].strip()})")


if __name__ == "__main__":
    sys.exit(main())
