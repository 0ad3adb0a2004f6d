"""Fixtures: the fake engine, a real vLLM, and vLLM with the plug-in, each started once, one after the other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from local.aws import free_port
from local.engine_env import engine_command, engine_environ, ensure_engine, ensure_plugin
from local.tiny_model import ensure_model
from tests.contract.thinking_model import make_thinking_model
from tests.engines import MODEL, VLLM_TIMEOUT_S, Engine, fake_engine, running_engine


@pytest.fixture(scope="session", params=["fake-engine", pytest.param("vllm", marks=pytest.mark.vllm)])
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    folder = tmp_path_factory.mktemp(f"engine-{request.param}")
    if request.param == "fake-engine":
        with fake_engine(folder, "--seconds-per-token", "0.004") as made:
            yield made
        return
    environment = ensure_engine(print)
    port = free_port()
    argv = engine_command(environment, ensure_model(environment, print), MODEL, "127.0.0.1", port)
    with running_engine(argv, port, folder, engine_environ(), VLLM_TIMEOUT_S) as made:
        yield made


PARSED = ("--enable-auto-tool-choice", "--tool-call-parser", "hermes")
THINKS = (*PARSED, "--reasoning-parser", "deepseek_r1")
ROOT = Path(__file__).parents[2]
PROCESSORS = ("--logits-processors", "synkti_engine.forced:ForcedReplay", "tests.contract.fresh_tokens:FreshTokens")
"""Forced decoding, and a client's own logits processor."""

CHUNK = 512
"""Tokens. A longer prompt is prefilled in chunks."""


@pytest.fixture(scope="session", params=["plain", pytest.param("thinks", marks=pytest.mark.long)])
def plugged(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """Run vLLM with the plug-in and a model with tag tokens; `thinks`: also with a reasoning parser."""
    folder = tmp_path_factory.mktemp(f"plugged-{request.param}")
    environment = ensure_engine(print)
    model = make_thinking_model(ensure_model(environment, print), folder / "model")
    port = free_port()
    argv = engine_command(environment, model, MODEL, "127.0.0.1", port, ensure_plugin(environment))
    argv[1] += f":{ROOT}"  # PYTHONPATH
    more = [*(THINKS if request.param == "thinks" else PARSED), *PROCESSORS, "--max-num-batched-tokens", str(CHUNK)]
    with running_engine([*argv, *more], port, folder, engine_environ(), VLLM_TIMEOUT_S) as made:
        yield made
