"""Whose fault a failure is, by a whole fleet: a client's never costs a node, and a node's never reaches the client."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import httpx
import pytest
import uvloop

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


class Stage:
    """One fleet for all stories; each ends with all engines up again."""

    def __init__(self, runner: asyncio.Runner, fleet: LocalFleet) -> None:
        self.runner = runner
        self.fleet = fleet

    def body(self, prompt: str, *, stream: bool = False, **more: Any) -> dict[str, Any]:
        return {"model": MODEL, "prompt": prompt, "max_tokens": 3, "stream": stream, **more}

    async def ask(
        self, entry: int, body: dict[str, Any] | bytes, headers: Mapping[str, str] | None = None
    ) -> httpx.Response:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        url, told = self.fleet.nodes[entry].url, {"content-type": "application/json", **(headers or {})}
        return await self.fleet.http.post(f"{url}/v1/completions", content=content, headers=told)

    async def refuses(self, entry: int, body: dict[str, Any] | bytes) -> bool:
        return (await self.ask(entry, body)).status_code == 422

    async def all_busy(self) -> bool:
        """Whether every node is an entry of a stream."""
        return all(len(node.agent.streams) >= 2 for node in self.fleet.nodes)

    def engines(self) -> list[str]:
        """What runs on each node; a node whose engine is down has none."""
        files = [node.state_dir / "engine.group" for node in self.fleet.nodes]
        return [file.read_text() if file.exists() else "" for file in files]

    async def metrics(self, entry: int) -> str:
        return (await self.fleet.http.get(self.fleet.nodes[entry].url + "/metrics")).text

    async def all_up(self) -> None:
        for node in self.fleet.nodes:
            await eventually(f"{node.instance_id} is ready", partial(self.fleet.ready, node))
            await eventually(f"{node.instance_id} sees all", partial(self.fleet.sees, node, SIZE))


def error_of(response: httpx.Response) -> dict[str, Any]:
    """The error of an answer, or of a stream's last event."""
    if response.headers["content-type"].startswith("text/event-stream"):
        events = [line.removeprefix("data: ") for line in response.text.splitlines() if line.startswith("data: {")]
        found = json.loads(events[-1])["error"]
    else:
        found = response.json()["error"]
    assert isinstance(found, dict)
    return found


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    options = [word for text, what in TRIGGERS.items() for word in ("--on-text", f"{text}={what}")]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        making = local_fleet(tmp_path_factory.mktemp("fleet"), size=SIZE, engine_options=options)
        fleet = runner.run(making.__aenter__())
        try:
            yield Stage(runner, fleet)
        finally:
            runner.run(making.__aexit__(None, None, None))


async def good(stage: Stage, count: int = 12) -> None:
    """Nothing of a client's own fault may cost another client anything."""
    for number in range(count):
        answer = await stage.ask(number % SIZE, stage.body(f"good {number} {time.monotonic()}"))
        assert answer.status_code == 200, answer.text


CASES = [
    ("poison-exit", True),
    ("poison-kill", False),
    ("poison-kill", True),
    ("poison-core", True),
    ("poison-core", False),
]


@pytest.mark.parametrize(("kind", "stream"), CASES)
def test_a_request_that_ends_engines_gets_one_more_and_is_then_refused_by_all(
    stage: Stage, kind: str, stream: bool
) -> None:
    async def story() -> None:
        before = stage.engines()
        prompt = f"{kind} {stream}, with a text of its own"
        answer = await stage.ask(0, stage.body(prompt, stream=stream))
        assert error_of(answer)["code"] == "request_kills_engines", answer.text
        assert answer.status_code == (200 if stream else 422), "a stream has its head by then"
        await good(stage)
        same: list[dict[str, Any] | bytes] = [
            stage.body(prompt, stream=not stream),
            stage.body(prompt, stream=stream, user="somebody", request_id="another"),
            json.dumps({"prompt": prompt + "  \n", "max_tokens": 3, "model": MODEL}, indent=3).encode(),
        ]
        for entry in range(SIZE):
            await eventually("it hears of it", partial(stage.refuses, entry, same[0]), within_s=5)
            assert [await stage.refuses(entry, body) for body in same] == [True] * 3
        await stage.all_up()
        died = sum(old != new for old, new in zip(before, stage.engines(), strict=True))
        assert died == (3 if kind == "poison-kill" else 2), "a SIGKILL may come from outside: it takes one more"
        assert "synkti_deadly_refused_total 0.0" not in await stage.metrics(3)

    stage.runner.run(story())


def test_who_was_beside_a_deadly_request_gets_an_answer(stage: Stage) -> None:
    """Streams under way, and requests that wait at the same engine for their first token."""

    async def story() -> None:
        before = stage.engines()
        long = [stage.ask(n % SIZE, stage.body(f"long {n}", stream=True, max_tokens=300)) for n in range(8)]
        streams = [asyncio.ensure_future(each) for each in long]
        await eventually("they are under way", stage.all_busy)
        # One session goes to one engine, and from there to one other.
        session = {"x-synkti-session": "together"}
        poison = asyncio.ensure_future(stage.ask(1, stage.body("poison-exit beside"), headers=session))
        beside = [
            asyncio.ensure_future(stage.ask(n % SIZE, stage.body(f"beside {n}", max_tokens=60), headers=session))
            for n in range(8)
        ]
        for answer in await asyncio.gather(*streams):
            assert '"finish_reason":"length"' in answer.text
            assert answer.text.endswith("data: [DONE]\n\n")
        for answer in await asyncio.gather(*beside):
            assert answer.status_code == 200, answer.text
        assert error_of(await poison)["code"] == "request_kills_engines"
        await stage.all_up()
        assert sum(old != new for old, new in zip(before, stage.engines(), strict=True)) == 2

    stage.runner.run(story())


GRAMMAR: dict[str, Any] = {"structured_outputs": {"grammar": "root ::= "}}
SCHEMA: dict[str, Any] = {
    "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"$ref": "#"}}}
}
TYPOS: dict[str, dict[str, Any]] = {
    "regex": {"structured_outputs": {"regex": "("}},
    "bias": {"logit_bias": {"99999999": 1}},
}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_clients_errors_open_no_breaker_and_are_passed_on(stage: Stage, stream: bool) -> None:
    async def story() -> None:
        await stage.all_up()
        cases: list[tuple[dict[str, Any], int, str | int]] = [
            (stage.body("g", stream=stream, **GRAMMAR), 500, 500),
            (stage.body("s", stream=stream, **SCHEMA), 500, 500),
            (stage.body("error-500", stream=stream), 500, 500),
            (stage.body("r", stream=stream, **TYPOS["regex"]), 400, 400),
            (stage.body("b", stream=stream, **TYPOS["bias"]), 400, 400),
            (stage.body("error-400", stream=stream), 400, 400),
        ]
        for number in range(4):
            for body, status, code in cases:
                answer = await stage.ask(number % SIZE, body)
                assert answer.status_code == (200 if stream else status), answer.text
                assert error_of(answer)["code"] == code
            await good(stage)

    stage.runner.run(story())


def test_errors_without_words_are_one_in_openais_form_and_cost_nobody_anything(stage: Stage) -> None:
    async def story() -> None:
        for number in range(6):
            for text in ("text-500", "empty-500"):
                for stream in (False, True):
                    answer = await stage.ask(number % SIZE, stage.body(text, stream=stream))
                    assert (answer.status_code, error_of(answer)["code"]) == (500, "engine_error")
                    assert answer.headers["x-should-retry"] == "false"
            await good(stage)

    stage.runner.run(story())


@pytest.mark.parametrize("text", ["busy-503", "busy-429"])
def test_engines_without_room_are_a_429_and_no_breakers(stage: Stage, text: str) -> None:
    async def story() -> None:
        for number in range(6):
            answer = await stage.ask(number % SIZE, stage.body(text, stream=number % 2 == 0))
            assert (answer.status_code, error_of(answer)["code"]) == (429, "fleet_full")
            assert int(answer.headers["retry-after"]) >= 1
        await good(stage)

    stage.runner.run(story())


def test_a_model_that_an_engine_lacks_is_that_engines_fault_and_a_typo_the_clients(stage: Stage) -> None:
    async def story() -> None:
        answer = await stage.ask(0, {**stage.body("x"), "model": "typo"})
        assert (answer.status_code, error_of(answer)["code"]) == (404, "model_not_found")
        await good(stage, 4)

    stage.runner.run(story())


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_a_node_that_refuses_its_peers_is_not_the_clients_business(stage: Stage, stream: bool) -> None:
    """It has another key: it refuses all of them (401)."""

    async def story() -> None:
        doorkeeper = stage.fleet.nodes[2].agent.replication_server.verifier
        key, doorkeeper.key = doorkeeper.key, b"another key"
        try:
            for number in range(40):
                answer = await stage.ask(number % SIZE, stage.body(f"refused {stream} {number}", stream=stream))
                assert answer.status_code == 200, answer.text
                assert "error" not in answer.text
            # That it refuses a peer is no word of its on a stream.
            resumed = await stage.fleet.http.get(stage.fleet.nodes[0].url + "/v1/streams/" + "0" * 24)
            assert (resumed.status_code, error_of(resumed)["code"]) == (503, "journal_behind")
        finally:
            doorkeeper.key = key

    stage.runner.run(story())
