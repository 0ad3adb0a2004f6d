"""The two engines that a run can have: a real vLLM with the tiny model, and the stand-in whose answers are known."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from local.cache import cache_dir
from local.certificate import Output
from local.demo.client import DemoRequest
from local.demo.context import Reference
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
"""vLLM on a CPU insists on a process beside its core, but takes the core's word where this is not spelled "1".

On two cores those processes spin waiting for each other, and the thread that sends the tokens starves: answers come in
one piece at their end. In one process, as on a single GPU, each token comes when it is made, for half the CPU time.
"""

_SLOW_PREFILL = ("--max-num-batched-tokens", "16")
"""The tiny model computes 2,000 tokens in 0.03 s, faster than anybody could bring them: no context would ever move. In
pieces of 16 tokens it takes some tenths of a second, which is against a transfer what models that people serve take."""


@dataclass(frozen=True)
class LocalEngine:
    """environ: for the agents and their engines; ready_within_s: how long nodes with it may take until they serve.

    keeps_blocks: whether contexts can move from one of them to another.
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
    name: str, log: Callable[[str], None], kv_gib: float = 0, arguments: Sequence[str] = ()
) -> LocalEngine:
    """Makes what is not in the cache yet. Raises UserActionRequired. arguments: more of them for a vLLM that keeps no
    blocks.

    kv_gib: how much of the disk each engine's KV blocks may have, so that contexts can move between nodes; 0: none.
    """
    if name == SIM:
        if kv_gib:
            raise UserActionRequired(
                "the stand-in engine computes nothing, so it has no KV blocks to keep; ENGINE=vllm has"
            )
        return LocalEngine(SIM, "the stand-in engine", "none", fake_engine_command(), {}, _expected_output, 60.0)
    try:
        environment = ensure_engine(log)
        model_dir = ensure_model(environment, log)
        plugin = ensure_plugin(environment)
    except LocalRunError as error:
        raise UserActionRequired(str(error)) from error
    # Three agents and their engines share this CPU with everything else: a node may show no sign of life for seconds,
    # and take half of one to acknowledge a line, and still be well.
    environ = {**engine_environ(), **_SINGLE_PROCESS_ENV, "SYNKTI_MIN_SILENCE_S": "10", "SYNKTI_KEEPER_LAG_S": "0.5"}
    environ["TORCHINDUCTOR_CACHE_DIR"] = str(cache_dir() / "inductor")  # else among a run's temporary files
    if kv_gib:
        environ["SYNKTI_KV_MAX_BYTES"] = str(int(kv_gib * 1024**3))
    # What keeps blocks is loaded of this checkout, by its module's name (`node_agent/kv`).
    path, extra = ((plugin, _ROOT), _SLOW_PREFILL) if kv_gib else ((plugin,), tuple(arguments))
    command = partial(_vllm_command, environment, model_dir, path, extra)
    return LocalEngine(VLLM, "a real vLLM", str(model_dir), command, environ, lambda request: None, 300.0, kv_gib > 0)


def _vllm_command(
    environment: Path, model_dir: Path, path: Sequence[Path], extra: Sequence[str], host: str, port: int
) -> list[str]:
    command = engine_command(environment, model_dir, MODEL, host, port, *path)
    return [*command, "--distributed-executor-backend", "uni", *extra]


def fake_engine_command(*extra: str) -> EngineCommand:
    """The stand-in's command, with more arguments."""
    return partial(_fake_engine, extra)


def _fake_engine(extra: Sequence[str], host: str, port: int) -> list[str]:
    words = [sys.executable, "-m", "local.fake_engine", "--host", host, "--port", str(port), "--model-name", MODEL]
    return [*words, "--seconds-per-token", str(_SIM_SECONDS_PER_TOKEN), "--plugged", *extra]


def _expected_output(request: DemoRequest) -> Output:
    """The stand-in's answer is known without asking it."""
    prompt = (
        model.chat_prompt([{"role": "user", "content": request.text}])
        if request.chat
        else model.completion_prompt(request.text)
    )
    output = generate(prompt, SamplingParams(request.max_tokens))
    return Output(output.token_ids, output.text)
