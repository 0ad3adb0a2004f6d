"""One target under atheris (libFuzzer), where it is installed: `python -m tests.fuzz.coverage_guided NAME SECONDS`;
without arguments, the names of all targets.

atheris is no dependency of the project: hypothesis makes the same targets' inputs everywhere (`test_targets.py`).
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
from pathlib import Path

_CORPUS = Path(__file__).parent / "corpus"
_FOUND = Path(__file__).parents[2] / "out" / "fuzz"
"""Folder of inputs that widen the coverage; not in the repository."""


def main(name: str, seconds: str) -> None:
    """Fuzz one target. Does not return if atheris is installed, because libFuzzer ends the process."""
    if importlib.util.find_spec("atheris") is None:
        print("atheris is not installed: nothing to do")
        return
    atheris = importlib.import_module("atheris")
    with atheris.instrument_imports(include=["node_agent", "cli.core", "stacks"]):
        target = importlib.import_module("tests.fuzz.targets").TARGETS[name]

    def take(data: bytes) -> None:
        with contextlib.suppress(*target.expected):
            target.parse(data)

    kept, found = _CORPUS / name, _FOUND / name
    for folder in (kept, found):
        folder.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target.seeds):
        (found / f"seed-{number}").write_bytes(seed)
    options = [f"-max_total_time={seconds}", f"-artifact_prefix={kept}/crash-", str(found), str(kept)]
    atheris.Setup([sys.argv[0], *options], take)
    atheris.Fuzz()


if __name__ == "__main__":
    if len(sys.argv) == 1:
        print(" ".join(importlib.import_module("tests.fuzz.targets").TARGETS))
    else:
        main(*sys.argv[1:3])
