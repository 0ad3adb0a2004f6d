"""`/v1/responses` and `/v1/messages` under every loss of an engine, and of the entry: one whole answer, or an error.

One fleet of agents with fake engines that have the plug-in; the engines are told their losses beforehand.
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
class Heard:
    """All that a client was told."""

    status: int = 0
    events: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def take(self, name: bytes, data: bytes) -> None:
        self.events.append((name.decode(), json.loads(data)))

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.events]

    @property
    def text(self) -> str:
        """What all deltas add up to."""
        deltas = [event["delta"] for name, event in self.events if name.endswith("delta") and name != "message_delta"]
        return "".join(delta if isinstance(delta, str) else delta["text"] for delta in deltas)

    def ids(self) -> set[str]:
        """Every id of the answer or of its item, wherever one stands."""
        return set(_ids([event for _, event in self.events]))


def _ids(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from [inner] if key in ("id", "item_id") else _ids(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _ids(inner)


class Stage(FaultFleet[Heard]):
    async def ask(self, entry: LocalNode, form: str) -> Heard:
        heard, parser = Heard(), SseParser()
        body = {"model": MODEL, "stream": True, "temperature": 0, **BODIES[form]}
        async with self.fleet.http.stream("POST", entry.url + form, json=body) as response:
            heard.status = response.status_code
            async for data in response.aiter_bytes():
                for event in parser.feed(data):
                    heard.take(*event)
        return heard


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with fault_fleet(tmp_path_factory.mktemp("fleet"), "--plugged") as made:
        yield Stage(*made)


ROUTES = pytest.mark.parametrize("route", BODIES)


def assert_whole(heard: Heard, route: str) -> None:
    assert heard.status == 200
    assert heard.text == RIGHT
    assert not [name for name in heard.names if name.startswith("synkti") or name == "error"]
    if route == "/v1/responses":
        assert [event["sequence_number"] for _, event in heard.events] == list(range(len(heard.events)))
        name, last = heard.events[-1]
        assert name == "response.completed"
        assert last["response"]["output"][0]["content"][0]["text"] == RIGHT
        assert last["response"]["usage"]["output_tokens"] == TOKENS
        assert len(heard.ids()) == 2, "one id of the answer, one of its item"
    else:
        assert heard.names[-3:] == ["content_block_stop", "message_delta", "message_stop"]
        assert heard.events[-2][1]["delta"]["stop_reason"] == "max_tokens"
        assert heard.events[-2][1]["usage"]["output_tokens"] == TOKENS


@ROUTES
@pytest.mark.parametrize("after", [0, 1, TOKENS // 2, TOKENS - 1])
@pytest.mark.parametrize("kind", LOSSES)
def test_one_engine_is_lost(stage: Stage, route: str, kind: str, after: int) -> None:
    if kind == "half-character":
        after = min(after, TOKENS // 2)  # behind it there has to be a character of several bytes

    async def story() -> None:
        assert_whole(await stage.lose(route, [{"kind": kind, "after_tokens": after}]), route)

    stage.play(story)


@ROUTES
@pytest.mark.parametrize("kind", EARLY)
def test_an_engine_that_never_begins(stage: Stage, route: str, kind: str) -> None:
    async def story() -> None:
        assert_whole(await stage.lose(route, [{"kind": kind}]), route)

    stage.play(story)


@ROUTES
@pytest.mark.parametrize("kind", LOSSES)
def test_two_are_lost_and_the_third_ends_the_answer(stage: Stage, route: str, kind: str) -> None:
    async def story() -> None:
        first, second = {"kind": "abort", "after_tokens": 20}, {"kind": kind, "after_tokens": 10}
        assert_whole(await stage.lose(route, [first, second]), route)

    stage.play(story)


@ROUTES
def test_the_third_loss_is_an_error_that_nobody_can_take_for_an_end(stage: Stage, route: str) -> None:
    async def story() -> None:
        heard = await stage.lose(route, [{"kind": "eof", "after_tokens": 10}] * 3)
        name, error = heard.events[-1]
        assert error["error"]["code"] == "engine_lost"
        assert name == ("error" if route == "/v1/messages" else "")
        assert RIGHT.startswith(heard.text)
        assert "message_stop" not in heard.names
        assert "response.completed" not in heard.names

    stage.play(story)


def tell(folder: Path, story: Callable[[LocalFleet], Coroutine[Any, Any, None]]) -> None:
    async def whole() -> None:
        async with local_fleet(folder, seconds_per_token=0.03, engine_options=["--plugged"]) as fleet:
            await story(fleet)

    uvloop.run(whole())


async def read_response(client: openai.AsyncOpenAI) -> tuple[str, str]:
    """The text of the deltas, and that of the whole response at their end."""
    text = whole = ""
    asked = BODIES["/v1/responses"]
    stream = await client.responses.create(
        model=MODEL, input=asked["input"], max_output_tokens=TOKENS, stream=True, extra_body={"ignore_eos": True}
    )
    async for event in stream:
        if event.type == "response.output_text.delta":
            text += event.delta
        elif event.type == "response.completed":
            whole = event.response.output_text
    return text, whole


@pytest.mark.parametrize("how", ["crash", "notice"])
def test_the_sdks_responses_survive_the_loss_of_their_entry(tmp_path: Path, how: str) -> None:
    async def story(fleet: LocalFleet) -> None:
        http = synkti_client.async_http_client([node.url for node in fleet.nodes])
        async with openai.AsyncOpenAI(base_url="http://synkti/v1", api_key="none", http_client=http) as client:
            assert await interrupted(fleet, read_response(client), how) == (RIGHT, RIGHT)

    tell(tmp_path, story)


def test_a_stock_client_of_messages_behind_the_gateway_survives_the_loss_of_its_entry(tmp_path: Path) -> None:
    async def story(fleet: LocalFleet) -> None:
        async with gateway([node.url for node in fleet.nodes]) as url:

            async def read() -> Heard:
                heard, parser = Heard(200), SseParser()
                body = {"model": MODEL, "stream": True, "temperature": 0, **BODIES["/v1/messages"]}
                async with fleet.http.stream("POST", url + "/messages", json=body) as response:
                    async for data in response.aiter_bytes():
                        for event in parser.feed(data):
                            heard.take(*event)
                return heard

            assert_whole(await interrupted(fleet, read()), "/v1/messages")

    tell(tmp_path, story)
