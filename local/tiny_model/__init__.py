"""A tiny model for a real vLLM, made on the spot: small enough for a CPU, taught to answer in many scripts.

`recipe` runs in the engine's environment (it needs torch and transformers) and writes the model; everything else only
asks for it here.
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
    """The model's folder, made where this recipe was never followed. Raises LocalRunError."""
    digest = hashlib.sha256(_RECIPE.read_bytes()).hexdigest()[:12]

    def make(folder: Path) -> None:
        log("tiny model: teaching it a few answers (some seconds)")
        command = [str(environment / "bin" / "python"), str(_RECIPE), str(folder)]
        try:
            subprocess.run(
                command, check=True, capture_output=True, text=True, timeout=_TIMEOUT_S, env=engine_environ()
            )
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            said = error.stderr or b""
            last = (said if isinstance(said, str) else said.decode(errors="replace")).strip().splitlines()[-1:]
            raise LocalRunError(f"tiny model: it could not be made ({' '.join(last) or error})") from error

    return build_once(f"model-{digest}", make)
