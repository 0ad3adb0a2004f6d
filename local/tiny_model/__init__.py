"""Builds a tiny model for a real vLLM: small enough for a CPU, trained to answer in many scripts.

`recipe` runs in the engine's environment (it needs torch and transformers) and writes the model; other
modules only use `ensure_model`.
"""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Callable
from pathlib import Path

from local.cache import build_once
from local.engine_env import engine_environ
from local.errors import LocalRunError

_RECIPE = Path(__file__).with_name("recipe.py")
_TIMEOUT_S = 600


def ensure_model(environment: Path, log: Callable[[str], None]) -> Path:
    """Return the model's folder, built if it is not in the cache. Raises LocalRunError."""
    digest = hashlib.sha256(_RECIPE.read_bytes()).hexdigest()[:12]

    def make(folder: Path) -> None:
        log("tiny model: training it on a few answers (some seconds)")
        command = [str(environment / "bin" / "python"), str(_RECIPE), str(folder)]
        try:
            subprocess.run(
                command, check=True, capture_output=True, text=True, timeout=_TIMEOUT_S, env=engine_environ()
            )
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            said = error.stderr or b""
            last = (said if isinstance(said, str) else said.decode(errors="replace")).strip().splitlines()[-1:]
            raise LocalRunError(f"tiny model: the training failed ({' '.join(last) or error})") from error

    return build_once(f"model-{digest}", make)
