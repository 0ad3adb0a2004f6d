"""Benchmarks that parse every block of a stream as `data:`, against a node and a gateway: all requests succeed."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest

from local.engine_env import engine_environ, ensure_engine
from local.errors import LocalRunError
from local.tiny_model import ensure_model
from tests.clients_real.environments import GUIDELLM, not_tested
from tests.scenarios.clients import gateway, urls
from tests.scenarios.local_fleet import MODEL, LocalFleet
from tests.scenarios.streams import run_scenario

REQUESTS = 12
WITHIN_S = 400.0
ROUTES = {"openai-chat": "/v1/chat/completions", "openai": "/v1/completions"}

through_both = pytest.mark.parametrize("through", ["node", "gateway"])


@pytest.fixture(scope="module")
def vllm() -> Path:
    """Return the engine's environment, which contains `vllm bench`."""
    try:
        return ensure_engine(print)
    except LocalRunError as error:
        return not_tested("vLLM", error)


@pytest.fixture(scope="module")
def tokenizer(vllm: Path) -> Path:
    """Return the tiny model's folder: the benchmarks count prompt tokens with its tokenizer."""
    try:
        return ensure_model(vllm, print)
    except LocalRunError as error:
        return not_tested("the tiny model", error)


async def run(command: list[str], folder: Path, environ: dict[str, str]) -> None:
    """Run a command to its end. Raises AssertionError with its output if it fails."""
    process = await asyncio.create_subprocess_exec(
        *command, cwd=folder, env=environ, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    try:
        async with asyncio.timeout(WITHIN_S):
            out, _ = await process.communicate()
    except TimeoutError:
        process.kill()
        out, _ = await process.communicate()
    assert process.returncode == 0, out.decode(errors="replace")[-3000:]


async def against(through: str, fleet: LocalFleet, command: list[str], folder: Path, environ: dict[str, str]) -> None:
    """Run a command against a node or a gateway. URL in its words stands for the base URL without /v1."""
    if through == "node":
        await run([word.replace("URL", fleet.nodes[0].url) for word in command], folder, environ)
        return
    async with gateway(urls(fleet)) as base_url:
        await run([word.replace("URL", base_url.removesuffix("/v1")) for word in command], folder, environ)


@through_both
@pytest.mark.parametrize("backend", ROUTES)
def test_vllm_bench_serve_counts_every_request_as_completed(
    tmp_path: Path, through: str, backend: str, vllm: Path, tokenizer: Path
) -> None:
    command = [
        str(vllm / "bin" / "vllm"), "bench", "serve", "--backend", backend, "--endpoint", ROUTES[backend],
        "--base-url", "URL", "--model", MODEL, "--tokenizer", str(tokenizer), "--dataset-name", "random",
        "--random-input-len", "8", "--random-output-len", "16", "--num-prompts", str(REQUESTS), "--save-result",
        "--result-dir", str(tmp_path), "--result-filename", "result.json",
    ]  # fmt: skip

    async def scenario(fleet: LocalFleet) -> None:
        await against(through, fleet, command, tmp_path, engine_environ())

    run_scenario(tmp_path, scenario, size=2)
    result = json.loads((tmp_path / "result.json").read_text())
    assert (result["completed"], result.get("failed", 0)) == (REQUESTS, 0)


@through_both
@pytest.mark.parametrize("path", ROUTES.values())
def test_guidellm_counts_every_request_as_successful(tmp_path: Path, through: str, path: str, tokenizer: Path) -> None:
    command = [
        str(GUIDELLM.folder() / "bin" / "guidellm"), "run", "--disable-console",
        "--backend", f"kind=openai_http,target=URL,model={MODEL},request_format={path}",
        "--profile", "kind=synchronous", "--constraint", f"kind=max_requests,count={REQUESTS}",
        "--tokenizer", f"kind=huggingface_auto,model={tokenizer}",
        "--data", "kind=synthetic_text,prompt_tokens=16,output_tokens=16",
        "--output", f"kind=json,path={tmp_path / 'result.json'}",
    ]  # fmt: skip

    async def scenario(fleet: LocalFleet) -> None:
        await against(through, fleet, command, tmp_path, {**os.environ, "HF_HUB_OFFLINE": "1"})

    run_scenario(tmp_path, scenario, size=2)
    counts = _counts(json.loads((tmp_path / "result.json").read_text()))
    assert (counts["successful"], counts["errored"]) == (REQUESTS, 0)


def _counts(report: dict[str, Any]) -> dict[str, int]:
    """Return the request counts of the only benchmark in a report."""
    (benchmark,) = report["benchmarks"]
    counts: dict[str, int] = benchmark["metrics"]["request_totals"]
    return counts
