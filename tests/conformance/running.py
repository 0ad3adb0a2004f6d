"""Runs an engine and a node in front of it in a separate thread, for a test session."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import uvloop

from local.engine_env import engine_command, ensure_engine, ensure_plugin
from local.tiny_model import ensure_model
from node_agent.contract.client_requests import OPTIONAL_ROUTES
from tests.conformance.cases import MODEL, Case
from tests.conformance.compare import HttpAnswer
from tests.scenarios.local_fleet import LocalFleet, eventually, fake_engine_command, unready_fleet

WITHIN_S = 240.0
TIMEOUT_S = 120.0
OTHER_NAME = "tiny-too"
ROUTES = ",".join(sorted(path for path in OPTIONAL_ROUTES if "audio" not in path))
FIELDS = "cache_salt,chat_template_kwargs,priority,use_beam_search,vllm_xargs"
"""What the node allows, so that its answers can be compared."""


@dataclass(frozen=True)
class EnginePair:
    """An engine and its node. host: the address of both; the node listens on port 8000, its engine on 8002."""

    host: str

    def send(self, case: Case, port: int) -> HttpAnswer:
        """Send a request with the case's headers and Host and Content-Length only."""
        connection = http.client.HTTPConnection(self.host, port, timeout=TIMEOUT_S)
        try:
            connection.putrequest(case.method, case.path, skip_accept_encoding=True)
            for name, value in case.headers.items():
                connection.putheader(name, value)
            if case.body or case.method == "POST":
                connection.putheader("content-length", str(len(case.body)))
            connection.endheaders(case.body or None)
            response = connection.getresponse()
            return HttpAnswer(
                response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()
            )
        finally:
            connection.close()

    def both(self, case: Case) -> tuple[HttpAnswer, HttpAnswer]:
        return self.send(case, 8002), self.send(case, 8000)


def fake_engine_command_for(host: str) -> list[str]:
    return fake_engine_command(host, MODEL, 0.001, ("--also-named", OTHER_NAME))


def vllm_command(host: str) -> list[str]:
    """Return the command of vLLM with a second name, and with the plug-in, which leaves plain requests unchanged."""
    environment = ensure_engine(print)
    model = ensure_model(environment, print)
    argv = engine_command(environment, model, MODEL, host, 8002, ensure_plugin(environment))
    at = argv.index(MODEL) + 1
    return [*argv[:at], OTHER_NAME, *argv[at:]]


@contextlib.contextmanager
def engine_pair(folder: Path, command: Callable[[str], Sequence[str]], origins: str = "") -> Iterator[EnginePair]:
    """Run a node in front of an engine for the block. origins: the node's `allowed_origins`."""
    started = threading.Event()
    found: list[EnginePair] = []
    failed: list[BaseException] = []
    leave: list[Callable[[], object]] = []

    async def run_node() -> None:
        left = asyncio.Event()
        leave.append(partial(asyncio.get_running_loop().call_soon_threadsafe, left.set))
        async with unready_fleet(
            folder,
            1,
            models=(MODEL,),
            engine=lambda host, port: list(command(host)),
            SYNKTI_ALLOWED_ORIGINS=origins,
            SYNKTI_ALLOWED_ROUTES=ROUTES,
            SYNKTI_ALLOWED_FIELDS=FIELDS,
        ) as fleet:
            node = fleet.nodes[0]
            await eventually("the node is ready", partial(fleet.ready, node), WITHIN_S)
            await eventually("the node lists its engine's names", partial(_lists_other_name, fleet), WITHIN_S)
            found.append(EnginePair(node.host))
            started.set()
            await left.wait()

    def run() -> None:
        try:
            uvloop.run(run_node())
        except BaseException as error:  # any exception is raised again in the test's thread
            failed.append(error)
        finally:
            started.set()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    started.wait()
    if failed:
        raise failed[0]
    try:
        yield found[0]
    finally:
        leave[0]()
        thread.join(TIMEOUT_S)


async def _lists_other_name(fleet: LocalFleet) -> bool:
    cards = json.loads((await fleet.http.get(f"{fleet.nodes[0].url}/v1/models")).content)["data"]
    return any(card["id"] == OTHER_NAME for card in cards)
