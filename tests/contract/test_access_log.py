"""vLLM leaves out of its log what the agent requests again and again, and logs everything else."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from local.engine_env import engine_environ, ensure_engine
from node_agent.core.engine.polled_paths import POLLED_PATHS
from node_agent.settings import from_environ

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]
PROGRAM = Path(__file__).parent / "vllm_access_log.py"
OF_CLIENTS = ["/v1/chat/completions", "/v1/models/other", "/tokenize", "/healthy"]


def logged(arguments: list[str], paths: list[str]) -> list[str]:
    python = ensure_engine(print) / "bin" / "python"
    environ = {**engine_environ(), "VLLM_LOGGING_LEVEL": "ERROR"}
    command = [str(python), str(PROGRAM), json.dumps(arguments), json.dumps(paths)]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4_000:]
    shown: list[str] = json.loads(done.stdout.splitlines()[-1])
    return shown


def test_a_node_engine_logs_the_requests_of_clients_only() -> None:
    command = from_environ({"SYNKTI_MODEL_NAME": "m", "SYNKTI_MODEL_DIR": "/models/m"}).engine.command
    assert command[:2] == ("vllm", "serve")
    assert logged([*command[2:]], [*POLLED_PATHS, *OF_CLIENTS]) == OF_CLIENTS
