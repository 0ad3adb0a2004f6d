"""Runs real agents as separate processes on loopback addresses, with fake engines and an in-memory AWS.

The memory and the responses that a test measures are then those of the node alone.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.abuse.wire import get, status_of

CHECKOUT = Path(__file__).resolve().parents[2]
MODEL = "tiny"
READY_WITHIN_S = 30.0
END_WITHIN_S = 10.0
_runs = itertools.count(1)


def eventually(what: str, check: Callable[[], bool], within_s: float = READY_WITHIN_S) -> None:
    """Poll a condition until it holds. Raises AssertionError after `within_s`."""
    give_up_at = time.monotonic() + within_s
    while not check():
        if time.monotonic() > give_up_at:
            raise AssertionError(f"not within {within_s} s: {what}")
        time.sleep(0.05)


@dataclass
class AbusedNode:
    """One agent. host: its loopback address; log: the file with its output."""

    instance_id: str
    host: str
    folder: Path
    log: Path
    process: subprocess.Popen[bytes]

    @property
    def rss_mib(self) -> float:
        """Resident memory of the agent's process, in MiB. Raises AssertionError if it has ended."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS"):
                return int(line.split()[1]) / 1024
        raise AssertionError(f"{self.instance_id} has ended: {self.log.read_text()[-2_000:]}")

    def kill(self) -> None:
        """Kill the agent and its engine with SIGKILL."""
        self.process.kill()
        self.process.wait()
        with contextlib.suppress(OSError, ValueError, IndexError):
            os.killpg(int((self.folder / "engine.group").read_text().split()[1]), signal.SIGKILL)

    def is_ready(self) -> bool:
        with contextlib.suppress(OSError):
            return status_of(get(self.host, "/readyz")) == [200]
        return False

    def sees(self) -> int:
        """Return the number of ready nodes that it lists, itself included; 0 if it does not answer."""
        with contextlib.suppress(OSError, ValueError):
            nodes = json.loads(get(self.host, "/v1/synkti/nodes").partition(b"\r\n\r\n")[2])["nodes"]
            return sum(1 for node in nodes if node["state"] == "ready" and not node["suspect"])
        return 0


@contextlib.contextmanager
def abused_fleet(
    folder: Path, size: int, engine_options: Sequence[str] = ("--seconds-per-token", "0.01"), **settings: str
) -> Iterator[list[AbusedNode]]:
    """Run `size` nodes that are ready and list each other. settings: of every node, as SYNKTI_ variables."""
    network = f"127.{180 + os.getpid() % 60}.{next(_runs)}"
    addresses = {f"i-{n:08x}": f"{network}.{n + 1}" for n in range(size)}
    nodes: list[AbusedNode] = []
    try:
        nodes += [_start(folder, name, addresses, engine_options, settings) for name in addresses]
        for node in nodes:
            eventually(f"{node.instance_id} is ready", node.is_ready)
            eventually(f"{node.instance_id} lists all", lambda: node.sees() == size)  # noqa: B023 # called in this turn
        yield nodes
    finally:
        _end(nodes)


def _start(
    folder: Path, name: str, addresses: dict[str, str], engine_options: Sequence[str], settings: dict[str, str]
) -> AbusedNode:
    host, own = addresses[name], folder / name
    own.mkdir(parents=True)
    engine = [sys.executable, "-m", "local.fake_engine", "--host", host, "--port", "8002", "--model-name", MODEL]
    environ = {
        **os.environ,
        "SYNKTI_MODEL_NAME": MODEL,
        "SYNKTI_MODEL_DIR": "unused",
        "SYNKTI_FRONT_HOST": host,
        "SYNKTI_PEER_HOST": host,
        "SYNKTI_ADMIN_HOST": host,
        "SYNKTI_ENGINE_HOST": host,
        "SYNKTI_ENGINE_COMMAND": json.dumps([*engine, *engine_options]),
        "SYNKTI_ADVERTISE_ADDRESS": f"{host}:8001",
        "SYNKTI_STATE_DIR": str(own),
        "SYNKTI_BOOT_SPREAD_S": "0.1",
        "SYNKTI_TERM_GRACE_S": "2",
        **settings,
    }
    peers = [f"--peer={peer}={address}" for peer, address in addresses.items() if peer != name]
    log = folder / f"{name}.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "bench.node", name, host, *peers],
            cwd=CHECKOUT,
            env=environ,
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    return AbusedNode(name, host, own, log, process)


def _end(nodes: list[AbusedNode]) -> None:
    for node in nodes:
        node.process.terminate()
    for node in nodes:
        try:
            node.process.wait(END_WITHIN_S)
        except subprocess.TimeoutExpired:
            node.kill()
