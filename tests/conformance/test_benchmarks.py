"""`vllm bench serve` works with a node: its parser reads every block of a stream as data."""

from __future__ import annotations

import re
import subprocess

import pytest

from local.engine_env import engine_environ, ensure_engine
from local.tiny_model import ensure_model
from tests.conformance.cases import MODEL
from tests.conformance.running import EnginePair

PROMPTS = 6


@pytest.mark.long
@pytest.mark.vllm
@pytest.mark.parametrize(
    ("backend", "endpoint"), [("openai-chat", "/v1/chat/completions"), ("openai", "/v1/completions")]
)
def test_vllm_bench_serve_counts_every_request_as_a_success(vllm: EnginePair, backend: str, endpoint: str) -> None:
    environment = ensure_engine(print)
    command = [
        str(environment / "bin" / "vllm"), "bench", "serve", "--backend", backend, "--endpoint", endpoint,
        "--base-url", f"http://{vllm.host}:8000", "--model", MODEL,
        "--tokenizer", str(ensure_model(environment, print)), "--dataset-name", "random", "--random-input-len", "16",
        "--random-output-len", "8", "--num-prompts", str(PROMPTS), "--disable-tqdm",
    ]  # fmt: skip
    run = subprocess.run(command, capture_output=True, text=True, timeout=240, env=engine_environ(), check=False)
    assert run.returncode == 0, run.stderr[-2_000:]
    assert re.search(rf"Successful requests: +{PROMPTS}\b", run.stdout), run.stdout[-2_000:] + run.stderr[-2_000:]
