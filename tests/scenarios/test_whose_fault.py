"""Whose fault a failure is, by a whole fleet: a client's never costs a node, and a node's never reaches the client."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Iterator
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
HURT = re.compile(r'synkti_hop_failures_total\{fault="(engine|peer|network)"')


class Stage:
    """One fleet for all stories; each ends with all engines up again."""

    def __init__(self, runner: asyncio.Runner, fleet: LocalFleet) -> None:
        self.runner = runner
        self.fleet = fleet

    def body(self, prompt: str, *, stream: bool = False, **more: Any) -> dict[str, Any]:
        return {"model": MODEL, "prompt": prompt, "max_tokens": 3, "stream": stream, **more}

    async def ask(self, entry: int, body: dict[str, Any] | bytes, path: str = "/v1/completions") -> httpx.Response:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"content-type": "application/json"}
        return await self.fleet.http.post(self.fleet.nodes[entry].url + path, content=content, headers=headers)

    def engines(self) -> list[str]:
        """What runs on each node; a node whose engine is down has none."""
        files = [node.state_dir / "engine.group" for node in self.fleet.nodes]
        return [file.read_text() if file.exists() else "" for file in files]

    async def metrics(self, entry: int) -> str:
        return (await self.fleet.http.get(self.fleet.nodes[entry].url + "/metrics")).text

    async def total(self, name: str) -> float:
        """Of all nodes."""
        texts = [await self.metrics(entry) for entry in range(SIZE)]
        found = [re.findall(rf"^{name}(?:\{{.*\}})? (\S+)$", text, re.MULTILINE) for text in texts]
        return sum(float(value) for values in found for value in values)

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


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
@pytest.mark.parametrize("kind", ["poison-exit", "poison-kill", "poison-core"])
def test_a_request_that_ends_engines_gets_one_more_and_is_then_refused_by_all(
    stage: Stage, kind: str, stream: bool
) -> None:
    async def story() -> None:
        before = stage.engines()
        prompt = f"{kind} {stream}, with a text of its own"
        answer = await stage.ask(0, stage.body(prompt, stream=stream))
        assert error_of(answer)["code"] == "request_kills_engines", answer.text
        assert answer.status_code == 422
        await good(stage)
        same: list[dict[str, Any] | bytes] = [
            stage.body(prompt, stream=not stream),
            stage.body(prompt, stream=stream, user="somebody", request_id="another"),
            json.dumps({"prompt": prompt + "  \n", "max_tokens": 3, "model": MODEL}, indent=3).encode(),
        ]
        for entry in range(SIZE):

            async def is_refused(entry: int = entry) -> bool:
                answers = [await stage.ask(entry, body) for body in same]
                return all(one.status_code == 422 for one in answers)

            await eventually("every node refuses it", is_refused, within_s=5)
        await stage.all_up()
        after = stage.engines()
        died = sum(old != new for old, new in zip(before, after, strict=True))
        assert died == 2, "one more engine, and no third"
        assert "synkti_deadly_refused_total 0.0" not in await stage.metrics(3)

    stage.runner.run(story())
