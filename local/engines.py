"""Prepares the two engines of a run: a real vLLM with the tiny model, and the fake engine with known outputs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from local.cache import cache_dir
from local.certificate import Output
from local.demo.request import DemoRequest, Reference
from local.emulated_instance import EngineCommand
from local.engine_env import engine_command, engine_environ, ensure_engine, ensure_plugin
from local.errors import LocalRunError, UserActionRequired
from local.fake_engine import model
from local.fake_engine.answers import SamplingParams, generate
from local.tiny_model import ensure_model

MODEL = "tiny"
VLLM, SIM = "vllm", "sim"
_SIM_SECONDS_PER_TOKEN = 0.01
_ROOT = Path(__file__).parents[1]

_SINGLE_PROCESS_ENV = {"VLLM_ENABLE_V1_MULTIPROCESSING": "01"}
"""vLLM on a CPU runs a process beside its core unless this is set to another value than "1".

On two cores those processes spin waiting for each other, and the thread that sends the tokens starves: all tokens
arrive at the end. In one process, as on a single GPU, each token arrives when it is generated, for half the CPU time.
"""

_SLOW_PREFILL = ("--max-num-batched-tokens", "16")
"""The tiny model computes 2,000 tokens in 0.03 s, faster than any transfer, so that no context would ever move. In
batches of 16 tokens it takes some tenths of a second, which compares to a transfer as with models in production."""


@dataclass(frozen=True)
class LocalEngine:
    """A prepared engine.

    environ: of the agents and their engines; ready_timeout_s: how long its nodes may take until they serve;
    keeps_blocks: contexts can move between nodes.
    """

    name: str
    title: str
    model_dir: str
    command: EngineCommand
    environ: Mapping[str, str]
    reference: Reference
    ready_timeout_s: float
    keeps_blocks: bool = False


def prepare_engine(
    name: str,
    log: Callable[[str], None],
    kv_gib: float = 0,
    arguments: Sequence[str] = (),
    ensure: Callable[[Path, Callable[[str], None]], Path] = ensure_model,
) -> LocalEngine:
    """Build what is not in the cache yet and return the engine.

    Args:
        name: VLLM or SIM.
        log: called with a line about each thing that is built.
        kv_gib: disk space of each engine's KV blocks, so that contexts can move between nodes; 0: none.
        arguments: further ones of a vLLM that stores no blocks.
        ensure: returns a vLLM's model in the environment.

    Returns:
        The engine, whose command can be run on any loopback address.

    Raises:
        UserActionRequired: something cannot be built, or blocks are requested of the fake engine.
    """
    if name == SIM:
        if kv_gib:
            raise UserActionRequired(
                "the fake engine computes nothing, so it has no KV blocks to store; ENGINE=vllm has"
            )
        return LocalEngine(SIM, "the fake engine", "none", fake_engine_command(), {}, _expected_output, 60.0)
    try:
        environment = ensure_engine(log)
        model_dir = ensure(environment, log)
        plugin = ensure_plugin(environment)
    except LocalRunError as error:
        raise UserActionRequired(str(error)) from error
    # Three agents and their engines share this CPU with everything else: a healthy node may be silent for seconds, and
    # need half a second to acknowledge a record.
    environ = {**engine_environ(), **_SINGLE_PROCESS_ENV, "SYNKTI_MIN_SILENCE_S": "10", "SYNKTI_REPLICA_LAG_S": "0.5"}
    environ["TORCHINDUCTOR_CACHE_DIR"] = str(cache_dir() / "inductor")  # by default it is among a run's temporary files
    if kv_gib:
        environ["SYNKTI_KV_MAX_BYTES"] = str(int(kv_gib * 1024**3))
    # vLLM loads the connector from this checkout by its module's name (`node_agent/kv`).
    path, extra = ((plugin, _ROOT), _SLOW_PREFILL) if kv_gib else ((plugin,), tuple(arguments))
    command = partial(_vllm_command, environment, model_dir, path, extra)
    return LocalEngine(VLLM, "a real vLLM", str(model_dir), command, environ, lambda request: None, 300.0, kv_gib > 0)


def _vllm_command(
    environment: Path, model_dir: Path, path: Sequence[Path], extra: Sequence[str], host: str, port: int
) -> list[str]:
    command = engine_command(environment, model_dir, MODEL, host, port, *path)
    return [*command, "--distributed-executor-backend", "uni", *extra]


def fake_engine_command(*extra: str) -> EngineCommand:
    """Return the fake engine's command with further arguments."""
    return partial(_fake_engine, extra)


def _fake_engine(extra: Sequence[str], host: str, port: int) -> list[str]:
    words = [sys.executable, "-m", "local.fake_engine", "--host", host, "--port", str(port), "--model-name", MODEL]
    return [*words, "--seconds-per-token", str(_SIM_SECONDS_PER_TOKEN), "--plugged", *extra]


def _expected_output(request: DemoRequest) -> Output:
    """Return the fake engine's output, which is known without a request."""
    prompt = (
        model.chat_prompt([{"role": "user", "content": request.text}])
        if request.chat
        else model.completion_prompt(request.text)
    )
    output = generate(prompt, SamplingParams(request.max_tokens))
    return Output(output.token_ids, output.text)
