"""Starts the processes of a comparison: the engine, and the proxies in front of it, each on loopback addresses."""

from __future__ import annotations

import http.client
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.figures import DIRECT, ROUTER, SYNKTI
from local.errors import LocalRunError
from local.process_cleanup import start, tail
from node_agent.contract.errors import ConfigurationError
from node_agent.contract.names import ENGINE_PORT, FRONT_DOOR_PORT, PEER_DOOR_PORT
from node_agent.settings import from_environ

ROOT = Path(__file__).parent.parent
MODEL = "bench"
NONE, PEER = "none", "peer"
_DURABILITY = "SYNKTI_DURABILITY"
_REPLICAS = 2
_REPLICAS_MODEL = "another"
"""Replicas serve another model, so that no client's stream is routed to one of them."""

_READY_WITHIN_S = 30.0
_LOOK_EVERY_S = 0.05
_ASK_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class Proxy:
    """An address for clients, and the process behind it."""

    name: str
    host: str
    port: int
    pid: int


def send_request(
    host: str, port: int, method: str, path: str, body: Mapping[str, Any] | None = None
) -> tuple[int, bytes]:
    """Return status and body; (0, b"") without an answer."""
    connection = http.client.HTTPConnection(host, port, timeout=_ASK_TIMEOUT_S)
    try:
        raw = None if body is None else json.dumps(body)
        connection.request(method, path, raw, {"content-type": "application/json"})
        answer = connection.getresponse()
        return answer.status, answer.read()
    except (OSError, http.client.HTTPException):
        return 0, b""
    finally:
        connection.close()


def proxy_name(durability: str) -> str:
    """Return how tables, logs and folders name Synkti with this SYNKTI_DURABILITY."""
    return f"{SYNKTI} {durability}"


def has_durability_setting() -> bool:
    """Return True if the agent of this checkout has the setting: then it rejects an unknown value."""
    needed = {"SYNKTI_MODEL_NAME": MODEL, "SYNKTI_MODEL_DIR": "unused"}
    try:
        from_environ({**needed, _DURABILITY: "no such durability"})
    except ConfigurationError:
        return True
    return False


class Proxies:
    """Starts the proxies. network: the first three numbers of all addresses; folder: where the processes work.

    environ: of every process of the comparison; nothing of a person's AWS, no setting of the agent's.
    """

    def __init__(self, network: str, folder: Path, logs: Path) -> None:
        self._network = network
        self.folder = folder
        self._logs = logs
        self._hosts = 0
        environ = {key: value for key, value in os.environ.items() if not key.startswith(("AWS_", "SYNKTI_"))}
        self.environ = {**environ, "PYTHONPATH": str(ROOT)}
        self.engine = self._start_engine()

    def _host(self) -> str:
        self._hosts += 1
        return f"{self._network}.{self._hosts}"

    def _start(self, name: str, argv: list[str], extra: Mapping[str, str] | None = None) -> int:
        environ = {**self.environ, **(extra or {})}
        return start(argv, self.folder / name, environ, self._logs / f"{name}.log").pid

    def _start_engine(self) -> Proxy:
        host = self._host()
        pid = self._start("engine", [sys.executable, "-m", "bench.engine", host, str(ENGINE_PORT)])
        self._wait_for("engine", lambda: send_request(host, ENGINE_PORT, "GET", "/health")[0] == 200)
        return Proxy(DIRECT, host, ENGINE_PORT, pid)

    def set_pace(self, seconds_per_token: float) -> None:
        """Set the engine's pace."""
        status, _ = send_request(
            self.engine.host, self.engine.port, "POST", "/pace", {"seconds_per_token": seconds_per_token}
        )
        if status != 200:
            raise LocalRunError("the engine does not answer any more")

    def start_router(self, environment: Path) -> Proxy:
        """Start the other router with its cheapest policy: with one engine there is no choice."""
        host = self._host()
        command = [str(environment / "bin" / "vllm-router"), "--host", host, "--port", str(FRONT_DOOR_PORT)]
        command += ["--worker-urls", f"http://{self.engine.host}:{self.engine.port}", "--policy", "round_robin"]
        command += ["--prometheus-host", host, "--prometheus-port", str(PEER_DOOR_PORT)]
        command += ["--worker-startup-check-interval", "1", "--log-level", "warning"]
        pid = self._start(ROUTER, command)
        return self._wait_until_answering(Proxy(ROUTER, host, FRONT_DOOR_PORT, pid))

    def start_synkti(self, durability: str) -> Proxy:
        """Start an entry in front of the engine; with `peer`, replicas beside it."""
        name = proxy_name(durability)
        folder = name.replace(" ", "-")
        count = 1 + (_REPLICAS if durability == PEER else 0)
        addresses = {f"i-{number:08x}": self._host() for number in range(count)}
        pids = {
            node: self._start(
                f"{folder}-{number}", _node(node, addresses), self._settings(folder, number, addresses, durability)
            )
            for number, node in enumerate(addresses)
        }
        (entry, host), *_ = addresses.items()
        proxy = self._wait_until_answering(Proxy(name, host, FRONT_DOOR_PORT, pids[entry]))
        self._wait_for(f"{folder}-0", lambda: _ready_nodes(host) == count)
        return proxy

    def _settings(self, folder: str, number: int, addresses: dict[str, str], durability: str) -> dict[str, str]:
        host = list(addresses.values())[number]
        return {
            "SYNKTI_MODEL_NAME": _REPLICAS_MODEL if number else MODEL,
            "SYNKTI_MODEL_DIR": "unused",
            "SYNKTI_FRONT_HOST": host,
            "SYNKTI_PEER_HOST": host,
            "SYNKTI_ADMIN_HOST": host,
            "SYNKTI_ENGINE_HOST": self.engine.host,
            "SYNKTI_ENGINE_PORT": str(self.engine.port),
            "SYNKTI_ENGINE_COMMAND": '["sleep", "infinity"]',  # the engine runs already; this process only has to stay
            "SYNKTI_STATE_DIR": str(self.folder / f"{folder}-{number}" / "state"),
            _DURABILITY: durability,
        }

    def _wait_until_answering(self, proxy: Proxy) -> Proxy:
        body = {"model": MODEL, "max_tokens": 1, "messages": [{"role": "user", "content": "ready?"}]}
        log = proxy.name.replace(" ", "-") + ("" if proxy.name == ROUTER else "-0")
        self._wait_for(
            log, lambda: send_request(proxy.host, proxy.port, "POST", "/v1/chat/completions", body)[0] == 200
        )
        return proxy

    def _wait_for(self, log: str, check: Callable[[], bool]) -> None:
        give_up_at = time.monotonic() + _READY_WITHIN_S
        while not check():
            if time.monotonic() > give_up_at:
                path = self._logs / f"{log}.log"
                raise LocalRunError(f"{log} was not ready within {_READY_WITHIN_S:.0f} s; {path} ends:\n{tail(path)}")
            time.sleep(_LOOK_EVERY_S)


def _node(own: str, addresses: dict[str, str]) -> list[str]:
    peers = [word for id_, address in addresses.items() if id_ != own for word in ("--peer", f"{id_}={address}")]
    return [sys.executable, "-m", "bench.node", own, addresses[own], *peers]


def _ready_nodes(host: str) -> int:
    """Return the number of serving nodes that the node lists, itself included."""
    status, body = send_request(host, FRONT_DOOR_PORT, "GET", "/v1/synkti/nodes")
    return sum(1 for node in json.loads(body)["nodes"] if node["model"]) if status == 200 else 0
