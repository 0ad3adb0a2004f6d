"""An engine and a node in front of it, in a thread of their own, for the time of a test session."""

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
from tests.conformance.cases import MODEL, Case
from tests.conformance.compare import HttpAnswer
from tests.scenarios.local_fleet import LocalFleet, eventually, fake_engine_command, unready_fleet

WITHIN_S = 240.0
TIMEOUT_S = 120.0
OTHER_NAME = "tiny-too"


@dataclass(frozen=True)
class EnginePair:
    """host: of both; the node answers on port 8000, its engine on 8002."""

    host: str

    def ask(self, case: Case, port: int) -> HttpAnswer:
        """Send a request as it is, without any header of a library's own but Host and Content-Length."""
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
        return self.ask(case, 8002), self.ask(case, 8000)


def fake_engine_command_for(host: str) -> list[str]:
    return fake_engine_command(host, MODEL, 0.001, ("--also-named", OTHER_NAME))


def vllm_command(host: str) -> list[str]:
    """vLLM with the plug-in, which changes nothing for requests without its arguments, and a second name."""
    environment = ensure_engine(print)
    model = ensure_model(environment, print)
    argv = engine_command(environment, model, MODEL, host, 8002, ensure_plugin(environment))
    at = argv.index(MODEL) + 1
    return [*argv[:at], OTHER_NAME, *argv[at:]]


@contextlib.contextmanager
def engine_pair(folder: Path, command: Callable[[str], Sequence[str]], origins: str = "") -> Iterator[EnginePair]:
    """A node in front of an engine that is started so. origins: the node's `allowed_origins`."""
    started = threading.Event()
    found: list[EnginePair] = []
    failed: list[BaseException] = []
    leave: list[Callable[[], object]] = []

    async def live() -> None:
        left = asyncio.Event()
        leave.append(partial(asyncio.get_running_loop().call_soon_threadsafe, left.set))
        async with unready_fleet(
            folder, 1, models=(MODEL,), engine=lambda host, port: list(command(host)), SYNKTI_ALLOWED_ORIGINS=origins
        ) as fleet:
            node = fleet.nodes[0]
            await eventually("the node is ready", partial(fleet.ready, node), WITHIN_S)
            await eventually("its models are known", partial(_is_known, fleet), WITHIN_S)
            found.append(EnginePair(node.host))
            started.set()
            await left.wait()

    def run() -> None:
        try:
            uvloop.run(live())
        except BaseException as error:  # of any kind: the test's thread raises it again
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


async def _is_known(fleet: LocalFleet) -> bool:
    cards = json.loads((await fleet.http.get(f"{fleet.nodes[0].url}/v1/models")).content)["data"]
    return any(card["id"] == OTHER_NAME for card in cards)
