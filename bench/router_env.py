"""Builds the other router's environment: from its lock file, every hash checked, cached outside the checkout."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import distributions
from pathlib import Path

from local.cache import build_once, require_space
from local.errors import UserActionRequired

LOCK = Path(__file__).parent.parent / "requirements" / "bench.txt"
PACKAGE = "vllm-router"
_NEEDED_GIB = 0.5
_STEP_TIMEOUT_S = 300


def ensure_router(log: Callable[[str], None]) -> Path:
    """Return the environment's folder; build it unless it is cached, and log where. Raises UserActionRequired."""
    digest = hashlib.sha256(LOCK.read_bytes()).hexdigest()[:12]
    name = f"{PACKAGE}-{digest}-py{sys.version_info.major}.{sys.version_info.minor}"
    return build_once(name, lambda folder: _build(folder, log))


def router_version(environment: Path) -> str:
    """Return the version that is installed in the environment."""
    site = next((environment / "lib").glob("python3.*/site-packages"))
    found = distributions(name=PACKAGE, path=[str(site)])
    return next(iter(found)).version


def _build(folder: Path, log: Callable[[str], None]) -> None:
    require_space(_NEEDED_GIB)
    log(f"{PACKAGE}: a new environment in {folder}")
    _run_step([sys.executable, "-m", "venv", "--without-pip", str(folder)])
    uv, python = str(Path(sys.executable).parent / "uv"), str(folder / "bin" / "python")
    _run_step([uv, "pip", "install", "--quiet", "--python", python, "--require-hashes", "--requirement", str(LOCK)])


def _run_step(command: list[str]) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=_STEP_TIMEOUT_S)
    except subprocess.CalledProcessError as error:
        last = (error.stderr.strip() or error.stdout.strip() or "no output").splitlines()[-1]
        raise UserActionRequired(f"{PACKAGE} cannot be installed; check the network and run again ({last})") from error
    except subprocess.TimeoutExpired as error:
        raise UserActionRequired(f"{PACKAGE} cannot be installed: no end after {_STEP_TIMEOUT_S} s") from error
