"""Reads streams of a local fleet in scenarios, and computes their expected outputs."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import uvloop

from local.fake_engine import model as fake_model
from local.fake_engine.answers import CompletionOutput, SamplingParams, generate
from node_agent.core.openai.sse import SseParser
from tests.scenarios.local_fleet import MODEL, LocalFleet, LocalNode, local_fleet

TOKENS = 250
MESSAGES: list[dict[str, object]] = [{"role": "user", "content": "a night train"}]
CHAT = {"model": MODEL, "messages": MESSAGES, "temperature": 0, "max_tokens": TOKENS, "ignore_eos": True}
PLAIN = {"model": MODEL, "prompt": "a night train", "temperature": 0, "max_tokens": TOKENS, "ignore_eos": True}
PATHS = {"chat": "/v1/chat/completions", "plain": "/v1/completions"}
Scenario = Callable[[LocalFleet], Coroutine[Any, Any, None]]


def run_scenario(folder: Path, scenario: Scenario, **options: Any) -> None:
    """Run a scenario on a fleet of its own."""

    async def run() -> None:
        async with local_fleet(folder, **options) as fleet:
            await scenario(fleet)

    uvloop.run(run())


def expected(kind: str, body: dict[str, Any]) -> CompletionOutput:
    """Return the complete output that an uninterrupted engine generates for the request."""
    prompt = (
        fake_model.chat_prompt(body["messages"]) if kind == "chat" else fake_model.completion_prompt(body["prompt"])
    )
    sampling = SamplingParams(
        body["max_tokens"], ignore_eos=body.get("ignore_eos", False), stop=tuple(body.get("stop", ()))
    )
    return generate(prompt, sampling)


@dataclass
class StreamReader:
    """Accumulates what a client receives of one stream."""

    response: httpx.Response
    text: str = ""
    ids: tuple[int, ...] = ()
    finish_reason: str | None = None
    error: dict[str, Any] | None = None
    done: bool = False
    events: int = 0

    def add_event(self, data: bytes) -> None:
        """Add one event. data: its payload, JSON or [DONE]."""
        self.events += 1
        if data == b"[DONE]":
            self.done = True
            return
        chunk = json.loads(data)
        self.error = chunk.get("error")
        for choice in chunk.get("choices", ()):
            self.text += choice["text"] if "text" in choice else choice["delta"].get("content") or ""
            self.ids += tuple(choice.get("token_ids") or ())
            self.finish_reason = choice["finish_reason"] or self.finish_reason


@contextlib.asynccontextmanager
async def open_stream(
    fleet: LocalFleet, entry: LocalNode, kind: str, body: dict[str, Any]
) -> AsyncIterator[StreamReader]:
    request = {**body, "stream": True}
    async with fleet.http.stream("POST", entry.url + PATHS[kind], json=request) as response:
        yield StreamReader(response)


async def read_until(reader: StreamReader, after_events: int = 0, then: Callable[[], None] | None = None) -> None:
    """Read to the end of the stream. then: called once, when `after_events` events have arrived."""
    parser = SseParser()
    async for data in reader.response.aiter_bytes():
        for _, event in parser.feed(data):
            reader.add_event(event)
            if then is not None and reader.events >= after_events:
                then()
                then = None
    assert then is None, "the stream ended before `then` was called"


async def find_engine(fleet: LocalFleet, kind: str, body: dict[str, Any]) -> LocalNode:
    """Send the request with one token, and return the node to whose engine it was routed."""
    async with open_stream(fleet, fleet.nodes[0], kind, {**body, "max_tokens": 1}) as reader:
        await read_until(reader)
        return fleet.by_id(reader.response.headers["x-synkti-node"])
