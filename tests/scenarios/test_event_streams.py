"""`/v1/responses` and `/v1/messages` under every kind of engine loss and loss of the entry: a whole answer or an error.

All scenarios share one fleet, whose fake engines have the plug-in and receive their faults in advance.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import openai
import pytest
import uvloop

import synkti_client
from local.fake_engine import model as fake_model
from local.fake_engine.answers import SamplingParams, generate
from node_agent.core.openai.sse import SseParser
from tests.scenarios.clients import gateway
from tests.scenarios.fault_fleet import FaultFleet, fault_fleet
from tests.scenarios.local_fleet import MODEL, LocalFleet, LocalNode, local_fleet
from tests.scenarios.test_clients import interrupted

TOKENS = 60
TURNS: list[dict[str, object]] = [{"role": "user", "content": "a night train"}]
BODIES: dict[str, dict[str, Any]] = {
    "/v1/responses": {"input": "a night train", "max_output_tokens": TOKENS, "ignore_eos": True},
    "/v1/messages": {"messages": TURNS, "max_tokens": TOKENS},
}
RIGHT = generate(fake_model.chat_prompt(TURNS), SamplingParams(TOKENS)).text
LOSSES = ("reset", "error-chunk", "done", "abort", "eof", "silence", "half-chunk", "half-character")
EARLY = ("silence-before-first", "status-500", "wrong-model")


@dataclass
class EventStreamResult:
    """Accumulates the events that a client receives of one stream."""

    status: int = 0
    events: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def add_event(self, name: bytes, data: bytes) -> None:
        self.events.append((name.decode(), json.loads(data)))

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.events]

    @property
    def text(self) -> str:
        """All deltas, joined."""
        deltas = [event["delta"] for name, event in self.events if name.endswith("delta") and name != "message_delta"]
        return "".join(delta if isinstance(delta, str) else delta["text"] for delta in deltas)

    def ids(self) -> set[str]:
        """Return all ids in the events: of the response and of its output item."""
        return set(_ids([event for _, event in self.events]))


def _ids(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from [inner] if key in ("id", "item_id") else _ids(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _ids(inner)


class EventStreamFaultFleet(FaultFleet[EventStreamResult]):
    async def request(self, entry: LocalNode, form: str, **fields: Any) -> EventStreamResult:
        result, parser = EventStreamResult(), SseParser()
        body = {"model": MODEL, "stream": True, "temperature": 0, **BODIES[form], **fields}
        async with self.fleet.http.stream("POST", entry.url + form, json=body) as response:
            result.status = response.status_code
            async for data in response.aiter_bytes():
                for event in parser.feed(data):
                    result.add_event(*event)
        return result


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EventStreamFaultFleet]:
    with fault_fleet(tmp_path_factory.mktemp("fleet"), "--plugged") as made:
        yield EventStreamFaultFleet(*made)


ROUTES = pytest.mark.parametrize("route", BODIES)


def assert_whole(result: EventStreamResult, route: str) -> None:
    assert result.status == 200
    assert result.text == RIGHT
    assert not [name for name in result.names if name.startswith("synkti") or name == "error"]
    if route == "/v1/responses":
        assert [event["sequence_number"] for _, event in result.events] == list(range(len(result.events)))
        name, last = result.events[-1]
        assert name == "response.completed"
        assert last["response"]["output"][0]["content"][0]["text"] == RIGHT
        assert last["response"]["usage"]["output_tokens"] == TOKENS
        assert len(result.ids()) == 2, "one id of the answer, one of its item"
    else:
        assert result.names[-3:] == ["content_block_stop", "message_delta", "message_stop"]
        assert result.events[-2][1]["delta"]["stop_reason"] == "max_tokens"
        assert result.events[-2][1]["usage"]["output_tokens"] == TOKENS


@ROUTES
@pytest.mark.parametrize("after", [0, 1, TOKENS // 2, TOKENS - 1])
@pytest.mark.parametrize("kind", LOSSES)
def test_a_stream_that_loses_one_engine_is_complete(
    faulty: EventStreamFaultFleet, route: str, kind: str, after: int
) -> None:
    if kind == "half-character":
        after = min(after, TOKENS // 2)  # a character of several bytes has to follow

    async def scenario() -> None:
        assert_whole(await faulty.request_with_faults(route, [{"kind": kind, "after_tokens": after}]), route)

    faulty.run(scenario)


@pytest.mark.parametrize("model", [None, ""])
def test_a_response_whose_request_names_no_model_is_continued_too(
    faulty: EventStreamFaultFleet, model: str | None
) -> None:
    """vLLM takes the served model then. Such a request was once passed on, without a continuation."""
    route = "/v1/responses"

    async def scenario() -> None:
        first, *others = await faulty.engine_order(route)
        faulty.fleet.close_breakers()
        await faulty.set_faults(first, [{"kind": "abort", "after_tokens": 20}])
        for node in others:
            await faulty.set_faults(node, [])
        assert_whole(await faulty.request(others[0], route, model=model), route)
        assert [each["kind"] for each in await faulty.injected(first)] == ["abort"]

    faulty.run(scenario)


@ROUTES
@pytest.mark.parametrize("kind", EARLY)
def test_a_stream_whose_engine_fails_before_its_first_event_is_complete(
    faulty: EventStreamFaultFleet, route: str, kind: str
) -> None:
    async def scenario() -> None:
        assert_whole(await faulty.request_with_faults(route, [{"kind": kind}]), route)

    faulty.run(scenario)


@ROUTES
@pytest.mark.parametrize("kind", LOSSES)
def test_a_stream_that_loses_two_engines_is_completed_by_the_third(
    faulty: EventStreamFaultFleet, route: str, kind: str
) -> None:
    async def scenario() -> None:
        first, second = {"kind": "abort", "after_tokens": 20}, {"kind": kind, "after_tokens": 10}
        assert_whole(await faulty.request_with_faults(route, [first, second]), route)

    faulty.run(scenario)


@ROUTES
def test_a_stream_that_loses_three_engines_ends_with_an_explicit_error(
    faulty: EventStreamFaultFleet, route: str
) -> None:
    async def scenario() -> None:
        result = await faulty.request_with_faults(route, [{"kind": "eof", "after_tokens": 10}] * 3)
        name, error = result.events[-1]
        assert error["error"]["code"] == "engine_lost"
        assert name == ("error" if route == "/v1/messages" else "")
        assert RIGHT.startswith(result.text)
        assert "message_stop" not in result.names
        assert "response.completed" not in result.names

    faulty.run(scenario)


def run_plugged(folder: Path, scenario: Callable[[LocalFleet], Coroutine[Any, Any, None]]) -> None:
    """Run a scenario on a fleet of its own, whose fake engines have the plug-in."""

    async def run() -> None:
        async with local_fleet(folder, seconds_per_token=0.03, engine_options=["--plugged"]) as fleet:
            await scenario(fleet)

    uvloop.run(run())


async def read_response(client: openai.AsyncOpenAI) -> tuple[str, str]:
    """Return the joined deltas, and the text of the response.completed event."""
    text = whole = ""
    body = BODIES["/v1/responses"]
    stream = await client.responses.create(
        model=MODEL, input=body["input"], max_output_tokens=TOKENS, stream=True, extra_body={"ignore_eos": True}
    )
    async for event in stream:
        if event.type == "response.output_text.delta":
            text += event.delta
        elif event.type == "response.completed":
            whole = event.response.output_text
    return text, whole


@pytest.mark.parametrize("how", ["crash", "notice"])
def test_the_sdks_responses_survive_the_loss_of_their_entry(tmp_path: Path, how: str) -> None:
    async def scenario(fleet: LocalFleet) -> None:
        http = synkti_client.async_http_client([node.url for node in fleet.nodes])
        async with openai.AsyncOpenAI(base_url="http://synkti/v1", api_key="none", http_client=http) as client:
            assert await interrupted(fleet, read_response(client), how) == (RIGHT, RIGHT)

    run_plugged(tmp_path, scenario)


def test_a_stock_messages_client_behind_the_gateway_survives_the_loss_of_the_entry(tmp_path: Path) -> None:
    async def scenario(fleet: LocalFleet) -> None:
        async with gateway([node.url for node in fleet.nodes]) as url:

            async def read() -> EventStreamResult:
                result, parser = EventStreamResult(200), SseParser()
                body = {"model": MODEL, "stream": True, "temperature": 0, **BODIES["/v1/messages"]}
                async with fleet.http.stream("POST", url + "/messages", json=body) as response:
                    async for data in response.aiter_bytes():
                        for event in parser.feed(data):
                            result.add_event(*event)
                return result

            assert_whole(await interrupted(fleet, read()), "/v1/messages")

    run_plugged(tmp_path, scenario)
