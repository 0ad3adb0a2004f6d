"""Runs the engine of `bench.context`: a real vLLM whose prefix cache can be emptied, with or without the connector."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from bench.proc import cpu_s
from local.aws import free_port
from local.cache import cache_dir
from local.engine_env import EXECUTOR, engine_command, engine_environ, ensure_engine, ensure_plugin
from local.process_cleanup import kill_all_in, start, tail
from local.tiny_model import ensure_model
from node_agent.core.kv.vllm_args import kv_arguments
from node_agent.kv.folder import BlockFolder

MODEL = "tiny"
MAX_BYTES = 4 * 1024**3
_ROOT = str(Path(__file__).parents[1])
_READY_WITHIN_S = 240.0
_LAST_BYTES = 4096
_SETTLED_WITHIN_S = 60.0


@dataclass
class ContextEngine:
    """A running engine. url: of its API; group: its process group; folder: of its blocks."""

    url: str
    group: int
    folder: BlockFolder
    http: httpx.Client

    def generate_one(self, context: Sequence[int], name: str) -> int:
        """Generate one token after the context."""
        return self.generate(context, 1, name)[0]

    def generate(self, context: Sequence[int], count: int, name: str) -> list[int]:
        """Generate `count` tokens after the context; return their ids. name: of the request. Raises httpx.HTTPError."""
        body = {"model": MODEL, "prompt": list(context), "max_tokens": count, "temperature": 0}
        body |= {"return_token_ids": True, "ignore_eos": True}
        answer = self.http.post(f"{self.url}/v1/completions", json=body, headers={"x-request-id": name})
        answer.raise_for_status()
        ids: list[int] = answer.json()["choices"][0]["token_ids"]
        return ids

    def generate_streamed(self, context: Sequence[int], count: int, name: str, **fields: Any) -> None:
        """Generate as a stream and read it. Raises RuntimeError if the stream is incomplete."""
        body = {"model": MODEL, "prompt": list(context), "max_tokens": count, "temperature": 0, "stream": True}
        body |= {"return_token_ids": True, "ignore_eos": True, **fields}
        last = b""
        with self.http.stream("POST", f"{self.url}/v1/completions", json=body, headers={"x-request-id": name}) as said:
            said.raise_for_status()
            for part in said.iter_raw():
                last = (last + part)[-_LAST_BYTES:]
        if b'"finish_reason":"length"' not in last or not last.endswith(b"data: [DONE]\n\n"):
            raise RuntimeError(f"an answer of {count} tokens ended otherwise: {last[-300:]!r}")

    def reset_prefix_cache(self) -> None:
        """Empty the engine's own prefix cache."""
        self.http.post(f"{self.url}/reset_prefix_cache").raise_for_status()

    def wait_for_writer(self) -> None:
        """Wait until its writer has written its queue: the number of blocks stays the same."""
        give_up_at, before = time.monotonic() + _SETTLED_WITHIN_S, -1
        while (now := sum(1 for _ in self.folder.root.rglob("*.kv"))) != before:
            assert time.monotonic() < give_up_at, "the engine goes on writing blocks"
            before = now
            time.sleep(0.2)

    def cpu_s(self) -> float:
        """Return the CPU seconds of all its processes."""
        members = (int(entry) for entry in os.listdir("/proc") if entry.isdigit())
        return sum(cpu_s(pid) for pid in members if _group(pid) == self.group)


def _group(pid: int) -> int:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return -1


@contextmanager
def context_engine(
    folder: Path, max_tokens: int, *, keeps: bool = True, with_plugin: bool | None = None, executor: str = EXECUTOR
) -> Iterator[ContextEngine]:
    """Run an engine while the context is entered.

    Args:
        folder: for its blocks, its log and its processes; created if needed.
        max_tokens: the longest context, prompt and answer together.
        keeps: with the connector, which stores the blocks of KV cache in the folder.
        with_plugin: with the plug-in; False: installed and not loaded; None: not installed.
        executor: of the model, as vLLM's command line names it.

    Yields:
        The engine, healthy; its processes are killed at the end.
    """
    environment = ensure_engine(print)
    port = free_port()
    blocks = BlockFolder(folder / "blocks", MAX_BYTES)
    argv = engine_command(environment, ensure_model(environment, print), MODEL, "127.0.0.1", port)
    argv[argv.index(EXECUTOR)] = executor
    argv += ["--max-model-len", str(max_tokens)]
    argv += ["--hf-overrides", f'{{"max_position_embeddings": {max_tokens}}}']
    if keeps:
        argv += kv_arguments(str(blocks.root), MAX_BYTES)
    environ = {**engine_environ(), "PYTHONPATH": _ROOT, "VLLM_SERVER_DEV_MODE": "1"}
    environ["TORCHINDUCTOR_CACHE_DIR"] = str(cache_dir() / "inductor")
    if with_plugin is not None:
        environ["PYTHONPATH"] = f"{_ROOT}{os.pathsep}{ensure_plugin(environment)}"
    if with_plugin is False:
        environ["VLLM_PLUGINS"] = ""
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "engine.log"
    process = start(argv, folder / "processes", environ, log)
    url = f"http://127.0.0.1:{port}"
    try:
        with httpx.Client(timeout=300) as http:
            _wait_until_healthy(http, url, process.poll, log)
            yield ContextEngine(url, os.getpgid(process.pid), blocks, http)
    finally:
        kill_all_in(folder / "processes")
        process.wait()


def _wait_until_healthy(http: httpx.Client, url: str, ended: Callable[[], int | None], log: Path) -> None:
    give_up_at = time.monotonic() + _READY_WITHIN_S
    while True:
        try:
            if http.get(f"{url}/health").status_code == 200:
                return
        except httpx.TransportError:
            pass
        if ended() is not None or time.monotonic() > give_up_at:
            raise RuntimeError(f"the engine did not start; its log ends:\n{tail(log, 30)}")
        time.sleep(0.2)
