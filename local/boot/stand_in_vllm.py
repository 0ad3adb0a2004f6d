"""The `vllm` of a container: the fake engine, started with the arguments that the agent gives to vLLM.

    vllm serve MODEL --served-model-name NAME --host H --port P [further arguments of vLLM, ignored]

Where the image has a file of `paths.ENGINE_ERROR`, it ends at once with the file's words, as vLLM with an error of its
configuration.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from local.boot.paths import ENGINE_ERROR

_SECONDS_PER_TOKEN = "0.02"


def main() -> None:
    """Become the fake engine."""
    error = Path(ENGINE_ERROR)
    if error.exists():
        sys.exit(error.read_text())
    parser = argparse.ArgumentParser(prog="vllm")
    parser.add_argument("serve", choices=["serve"])
    parser.add_argument("model", type=Path)
    parser.add_argument("--served-model-name", required=True)
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", required=True)
    given, _ = parser.parse_known_args()
    if not (given.model / "config.json").is_file():
        sys.exit(f"ValueError: {given.model} has no config.json")
    os.execv(  # noqa: S606 # no shell is needed
        sys.executable,
        [
            sys.executable, "-m", "local.fake_engine", "--host", given.host, "--port", given.port, "--plugged",
            "--model-name", given.served_model_name, "--seconds-per-token", _SECONDS_PER_TOKEN,
        ],
    )  # fmt: skip


if __name__ == "__main__":
    main()
