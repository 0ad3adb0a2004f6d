"""Engines for tests: the fake engine and the real vLLM, as process groups that end with the test session."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from local.aws import free_port
from local.process_cleanup import kill_all_in, start, tail

MODEL = "tiny"
FAKE_ENGINE_TIMEOUT_S = 20.0
VLLM_TIMEOUT_S = 240.0


@dataclass
class Engine:
    """A running engine."""

    url: str
    process: subprocess.Popen[bytes]
    folder: Path

    def terminate(self) -> None:
        os.kill(self.process.pid, signal.SIGTERM)


@contextmanager
def running_engine(
    argv: list[str], port: int, folder: Path, environ: Mapping[str, str], within_s: float
) -> Iterator[Engine]:
    """Until the block ends; healthy when it begins. The log is shown where it does not become so."""
    log = folder / "engine.log"
    process = start(argv, folder / "engine", environ, log)
    url = f"http://127.0.0.1:{port}"
    try:
        give_up_at = time.monotonic() + within_s
        while not _healthy(url):
            assert process.poll() is None, f"the engine ended:\n{tail(log, 40)}"
            assert time.monotonic() < give_up_at, f"the engine was not healthy in time:\n{tail(log, 40)}"
            time.sleep(0.05)
        yield Engine(url, process, folder)
    finally:
        kill_all_in(folder / "engine")
        process.wait()


@contextmanager
def fake_engine(folder: Path, *options: str) -> Iterator[Engine]:
    port = free_port()
    argv = [sys.executable, "-m", "local.fake_engine", "--port", str(port), "--model-name", MODEL, *options]
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    with running_engine(argv, port, folder, environ, FAKE_ENGINE_TIMEOUT_S) as engine:
        yield engine


def _healthy(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=5, verify=False).status_code == 200  # it loads no certificates
    except httpx.HTTPError:
        return False
