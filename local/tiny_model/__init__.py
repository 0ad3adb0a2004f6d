"""Builds tiny models for a real vLLM: small enough for a CPU, one trained to answer in many scripts, one in English.

`recipe` and `story_recipe` run in the engine's environment (they need torch and transformers) and write a model; other
modules only use `ensure_model` and `ensure_story_model`.
"""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

from local.cache import build_once
from local.engine_env import engine_environ
from local.errors import LocalRunError

_RECIPE = Path(__file__).with_name("recipe.py")
STORIES = Path(__file__).with_name("stories.txt")
"""The stories in English that the model, and the fake engine, answer with."""

_ROOT = Path(__file__).parents[2]
_TIMEOUT_S = 1800


def read_stories(file: Path = STORIES) -> tuple[str, ...]:
    """Return the stories of the file."""
    return tuple(file.read_text().strip().split("\n---\n"))


def ensure_model(environment: Path, log: Callable[[str], None]) -> Path:
    """Return the folder of the model with many scripts, built if it is not in the cache. Raises LocalRunError."""
    command = [str(environment / "bin" / "python"), str(_RECIPE)]
    return _ensure((_RECIPE,), command, engine_environ(), log)


def ensure_story_model(environment: Path, log: Callable[[str], None]) -> Path:
    """Return the folder of the model with stories in English, built if it is not in the cache. Raises LocalRunError."""
    command = [str(environment / "bin" / "python"), "-m", "local.tiny_model.story_recipe"]
    sources = (_RECIPE, _RECIPE.with_name("story_recipe.py"), STORIES)
    return _ensure(sources, command, {**engine_environ(), "PYTHONPATH": str(_ROOT)}, log)


def _ensure(
    sources: tuple[Path, ...], command: list[str], environ: Mapping[str, str], log: Callable[[str], None]
) -> Path:
    digest = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:12]

    def make(folder: Path) -> None:
        log("tiny model: training it on a few answers")
        try:
            subprocess.run(
                [*command, str(folder)], check=True, capture_output=True, text=True, timeout=_TIMEOUT_S, env=environ
            )
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            said = error.stderr or b""
            last = (said if isinstance(said, str) else said.decode(errors="replace")).strip().splitlines()[-1:]
            raise LocalRunError(f"tiny model: the training failed ({' '.join(last) or error})") from error

    return build_once(f"model-{digest}", make)
