"""Fault attribution by a whole fleet: a client's fault costs no node, and a node's fault never reaches the client."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import httpx
import pytest
import uvloop

from node_agent.adapters import engine_process
from node_agent.core.common.request_auth import Refusal
from tests.scenarios.local_fleet import MODEL, LocalFleet, eventually, local_fleet

TRIGGERS = {
    "poison-exit": "dies",
    "poison-kill": "killed",
    "poison-core": "core-dies",
    "error-500": "error-500",
    "text-500": "text-500",
    "empty-500": "empty-500",
    "error-400": "error-400",
    "busy-503": "busy-503",
    "busy-429": "busy-429",
}
SIZE = 4


class SharedFleet:
    """One fleet for all scenarios of the module; each scenario ends with all engines running."""

    def __init__(self, runner: asyncio.Runner, fleet: LocalFleet) -> None:
        self.runner = runner
        self.fleet = fleet

    def body(self, prompt: str, *, stream: bool = False, **more: Any) -> dict[str, Any]:
        return {"model": MODEL, "prompt": prompt, "max_tokens": 3, "stream": stream, **more}

    async def request(
        self, entry: int, body: dict[str, Any] | bytes, headers: Mapping[str, str] | None = None
    ) -> httpx.Response:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        url, all_headers = self.fleet.nodes[entry].url, {"content-type": "application/json", **(headers or {})}
        return await self.fleet.http.post(f"{url}/v1/completions", content=content, headers=all_headers)

    async def rejects(self, entry: int, body: dict[str, Any] | bytes) -> bool:
        return (await self.request(entry, body)).status_code == 422

    async def all_busy(self) -> bool:
        """Return True if every node is the entry of at least two streams."""
        return all(len(node.agent.parts.clients.streams) >= 2 for node in self.fleet.nodes)

    def engines(self) -> list[str]:
        """Return the process group of each node's engine, an empty string where the engine is down."""
        files = [node.state_dir / "engine.group" for node in self.fleet.nodes]
        return [file.read_text() if file.exists() else "" for file in files]

    async def metrics(self, entry: int) -> str:
        return (await self.fleet.http.get(self.fleet.nodes[entry].admin_url + "/metrics")).text

    async def all_up(self) -> None:
        for node in self.fleet.nodes:
            await eventually(f"{node.instance_id} is ready", partial(self.fleet.ready, node))
            await eventually(f"{node.instance_id} sees all", partial(self.fleet.sees, node, SIZE))


def error_of(response: httpx.Response) -> dict[str, Any]:
    """Return the error object of a response, or of the last event of a stream."""
    if response.headers["content-type"].startswith("text/event-stream"):
        events = [line.removeprefix("data: ") for line in response.text.splitlines() if line.startswith("data: {")]
        found = json.loads(events[-1])["error"]
    else:
        found = response.json()["error"]
    assert isinstance(found, dict)
    return found


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedFleet]:
    options = [word for text, what in TRIGGERS.items() for word in ("--on-text", f"{text}={what}")]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        making = local_fleet(tmp_path_factory.mktemp("fleet"), size=SIZE, engine_options=options)
        fleet = runner.run(making.__aenter__())
        try:
            yield SharedFleet(runner, fleet)
        finally:
            runner.run(making.__aexit__(None, None, None))


async def assert_requests_succeed(shared: SharedFleet, count: int = 12) -> None:
    """Send `count` valid requests over all entries, and assert that each gets 200."""
    for number in range(count):
        answer = await shared.request(number % SIZE, shared.body(f"good {number} {time.monotonic()}"))
        assert answer.status_code == 200, answer.text


OOM_KILLS = itertools.count(1 << 40)  # more than any host has counted
CASES = [
    ("poison-exit", True),
    ("poison-kill", False),
    ("poison-kill", True),
    ("poison-core", True),
    ("poison-core", False),
]


@pytest.mark.parametrize(("kind", "stream"), CASES)
def test_a_request_that_kills_engines_gets_one_retry_and_all_nodes_then_reject_it(
    shared: SharedFleet, kind: str, stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "poison-kill":  # as the kernel ends an engine for lack of memory
        monkeypatch.setattr(engine_process, "oom_kills", OOM_KILLS.__next__)

    async def scenario() -> None:
        before = shared.engines()
        prompt = f"{kind} {stream}, with a text of its own"
        answer = await shared.request(0, shared.body(prompt, stream=stream))
        assert error_of(answer)["code"] == "request_kills_engines", answer.text
        assert answer.status_code == (200 if stream else 422), "the response head of a stream has been sent by then"
        await assert_requests_succeed(shared)
        same: list[dict[str, Any] | bytes] = [
            shared.body(prompt, stream=not stream),
            shared.body(prompt, stream=stream, user="somebody"),
            json.dumps({"prompt": prompt + "  \n", "max_tokens": 3, "model": MODEL}, indent=3).encode(),
        ]
        for entry in range(SIZE):
            await eventually("the node rejects the request", partial(shared.rejects, entry, same[0]), within_s=5)
            assert [await shared.rejects(entry, body) for body in same] == [True] * 3
        await shared.all_up()
        restarted = sum(old != new for old, new in zip(before, shared.engines(), strict=True))
        assert restarted == 2, "one more engine, and no third"
        assert "synkti_fatal_requests_refused_total 0.0" not in await shared.metrics(3)

    shared.runner.run(scenario())


def test_a_request_whose_engines_are_killed_from_outside_is_not_blamed(shared: SharedFleet) -> None:
    async def scenario() -> None:
        answer = await shared.request(0, shared.body("poison-kill, without a lack of memory"))
        assert (answer.status_code, error_of(answer)["code"]) == (503, "no_ready_node")
        await shared.all_up()

    shared.runner.run(scenario())


def test_requests_at_the_same_engine_as_a_deadly_request_are_answered(shared: SharedFleet) -> None:
    """Open streams, and requests that wait at the same engine for their first token."""

    async def scenario() -> None:
        before = shared.engines()
        long = [shared.request(n % SIZE, shared.body(f"long {n}", stream=True, max_tokens=300)) for n in range(8)]
        streams = [asyncio.ensure_future(each) for each in long]
        await eventually("the streams are in progress", shared.all_busy)
        # All requests of a session go to one engine, and after its loss to one other.
        session = {"x-synkti-session": "together"}
        poison = asyncio.ensure_future(shared.request(1, shared.body("poison-exit beside"), headers=session))
        concurrent = [
            asyncio.ensure_future(shared.request(n % SIZE, shared.body(f"beside {n}", max_tokens=60), headers=session))
            for n in range(8)
        ]
        for answer in await asyncio.gather(*streams):
            assert '"finish_reason":"length"' in answer.text
            assert answer.text.endswith("data: [DONE]\n\n")
        for answer in await asyncio.gather(*concurrent):
            assert answer.status_code == 200, answer.text
        assert error_of(await poison)["code"] == "request_kills_engines"
        await shared.all_up()
        assert sum(old != new for old, new in zip(before, shared.engines(), strict=True)) == 2

    shared.runner.run(scenario())


GRAMMAR: dict[str, Any] = {"structured_outputs": {"grammar": "root ::= "}}
BIAS: dict[str, Any] = {"logit_bias": {"99999999": 1}}
ENDLESS: tuple[dict[str, Any], ...] = (
    {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"$ref": "#"}}}},
    {"structured_outputs": {"regex": "("}},
)
"""vLLM 0.32 answers 500 to the first. Both are refused before an engine."""


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_errors_caused_by_clients_open_no_breaker_and_are_forwarded(shared: SharedFleet, stream: bool) -> None:
    async def scenario() -> None:
        await shared.all_up()
        cases: list[tuple[dict[str, Any], int, str | int]] = [
            (shared.body("g", stream=stream, **GRAMMAR), 500, 500),
            (shared.body("error-500", stream=stream), 500, 500),
            (shared.body("b", stream=stream, **BIAS), 400, 400),
            (shared.body("error-400", stream=stream), 400, 400),
        ]
        for number in range(4):
            for body, status, code in cases:
                answer = await shared.request(number % SIZE, body)
                assert answer.status_code == (200 if stream else status), answer.text
                assert error_of(answer)["code"] == code
            await assert_requests_succeed(shared)

    shared.runner.run(scenario())


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("fields", ENDLESS, ids=lambda fields: next(iter(fields)))
def test_a_grammar_without_end_or_sense_reaches_no_engine(
    shared: SharedFleet, fields: dict[str, Any], stream: bool
) -> None:
    async def scenario() -> None:
        answer = await shared.request(0, shared.body("g", stream=stream, **fields))
        assert answer.status_code == 400, "a stream, too, is refused before it begins"
        assert error_of(answer)["code"] == "invalid_schema"
        await assert_requests_succeed(shared)

    shared.runner.run(scenario())


def test_an_engine_500_without_an_error_body_becomes_an_openai_error_and_opens_no_breaker(
    shared: SharedFleet,
) -> None:
    async def scenario() -> None:
        for number in range(6):
            for text in ("text-500", "empty-500"):
                for stream in (False, True):
                    answer = await shared.request(number % SIZE, shared.body(text, stream=stream))
                    assert (answer.status_code, error_of(answer)["code"]) == (500, "engine_error")
                    assert answer.headers["x-should-retry"] == "false"
            await assert_requests_succeed(shared)

    shared.runner.run(scenario())


@pytest.mark.parametrize("text", ["busy-503", "busy-429"])
def test_full_engines_are_a_429_and_open_no_breaker(shared: SharedFleet, text: str) -> None:
    async def scenario() -> None:
        for number in range(6):
            answer = await shared.request(number % SIZE, shared.body(text, stream=number % 2 == 0))
            assert (answer.status_code, error_of(answer)["code"]) == (429, "fleet_full")
            assert int(answer.headers["retry-after"]) >= 1
        await assert_requests_succeed(shared)

    shared.runner.run(scenario())


def test_an_unknown_model_name_is_a_404_and_opens_no_breaker(shared: SharedFleet) -> None:
    async def scenario() -> None:
        answer = await shared.request(0, {**shared.body("x"), "model": "typo"})
        assert (answer.status_code, error_of(answer)["code"]) == (404, "model_not_found")
        await assert_requests_succeed(shared, 4)

    shared.runner.run(scenario())


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_a_node_that_rejects_its_peers_requests_fails_no_client_request(shared: SharedFleet, stream: bool) -> None:
    """Its cluster key is another one, so that it answers all peers with 401."""

    async def scenario() -> None:
        verifier = shared.fleet.nodes[2].agent.parts.replication.server.verifier
        peer_key = verifier.peer_key
        verifier.peer_key = lambda *_: Refusal.FOREIGN_KEY
        try:
            for number in range(40):
                answer = await shared.request(number % SIZE, shared.body(f"refused {stream} {number}", stream=stream))
                assert answer.status_code == 200, answer.text
                assert "error" not in answer.text
            # A peer's 401 does not prove that the stream is unknown.
            resumed = await shared.fleet.http.get(shared.fleet.nodes[0].url + "/v1/streams/" + "0" * 24)
            assert (resumed.status_code, error_of(resumed)["code"]) == (503, "journal_behind")
        finally:
            verifier.peer_key = peer_key

    shared.runner.run(scenario())
