"""The fake engine's core: slow, stuck and short of blocks on request, with vLLM's figures of it."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from node_agent.core.engine.metrics import EngineMetrics, parse_metrics
from tests.engines import MODEL, fake_engine

BODY = {"model": MODEL, "prompt": "hi", "max_tokens": 2000, "ignore_eos": True, "stream": True}


class Client:
    def __init__(self, url: str, http: httpx.AsyncClient) -> None:
        self.url = url
        self.http = http

    async def change(self, **wanted: Any) -> httpx.Response:
        return await self.http.post(f"{self.url}/standin/core", json=wanted)

    async def figures(self) -> EngineMetrics:
        figures = parse_metrics((await self.http.get(f"{self.url}/metrics")).content)
        assert figures is not None
        assert figures.can_explain_silence
        return figures

    @asynccontextmanager
    async def stream(self) -> AsyncIterator[list[float]]:
        """When each of its events came."""
        came: list[float] = []

        async def read() -> None:
            async with self.http.stream("POST", f"{self.url}/v1/completions", json=BODY) as response:
                async for data in response.aiter_bytes():
                    came.extend([time.monotonic()] * data.count(b"\n\n"))

        reading = asyncio.create_task(read())
        try:
            await until(lambda: _more_than(came, 3))
            yield came
        finally:
            reading.cancel()
            await asyncio.wait({reading})


async def _more_than(came: list[float], count: int) -> bool:
    return len(came) > count


async def until(check: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(20):
        while not await check():  # noqa: ASYNC110 # of any condition
            await asyncio.sleep(0.01)


def play(tmp_path: Path, story: Callable[[Client], Awaitable[None]]) -> None:
    async def run(url: str) -> None:
        async with httpx.AsyncClient(timeout=20) as http:
            await story(Client(url, http))

    with fake_engine(tmp_path, "--faults", "--seconds-per-token", "0.01") as engine:
        asyncio.run(run(engine.url))


def test_a_wedged_core_answers_health_and_makes_no_token_until_it_resumes(tmp_path: Path) -> None:
    async def story(client: Client) -> None:
        async with client.stream() as came:
            assert (await client.change(wedged=True)).json() == {"wedged": True, "seconds_per_token": 0.01}
            before = await client.figures()
            answer = asyncio.create_task(
                client.http.post(f"{client.url}/v1/completions", json={**BODY, "stream": False})
            )
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(asyncio.shield(answer), 0.5)
            count = len(came)
            assert (await client.http.get(f"{client.url}/health")).status_code == 200
            assert await client.figures() == before
            assert len(came) <= count + 1
            await client.change(wedged=False)
            await until(lambda: _more_than(came, count + 5))
            assert (await client.figures()).generated_tokens != before.generated_tokens
            answer.cancel()

    play(tmp_path, story)


def test_preempted_streams_wait_and_count_as_waiting_while_others_continue(tmp_path: Path) -> None:
    async def story(client: Client) -> None:
        async with client.stream() as older, client.stream() as younger:
            await client.change(preempt={"seconds": 1.5, "share": 0.5})
            figures = await client.figures()
            assert (figures.running, figures.waiting, figures.preemptions) == (1, 1, 1)
            count, others = len(younger), len(older)
            await until(lambda: _more_than(older, others + 20))
            assert len(younger) <= count + 1
            await until(lambda: _more_than(younger, count + 5))
            assert max(later - one for one, later in itertools.pairwise(younger)) >= 1.4
            assert (await client.figures()).waiting == 0

    play(tmp_path, story)


def test_a_long_step_delays_all_streams_alike_and_a_slow_core_is_slow(tmp_path: Path) -> None:
    async def story(client: Client) -> None:
        async with client.stream() as came:
            await client.change(step_s=1.0)
            count = len(came)
            await until(lambda: _more_than(came, count + 2))
            assert max(later - one for one, later in itertools.pairwise(came)) >= 0.9
            await client.change(seconds_per_token=0.3)
            count = len(came) + 1

            async def is_slow() -> bool:
                # One that is read late by a busy test is followed by a shorter wait: not each gap is as long.
                return any(later - one >= 0.25 for one, later in itertools.pairwise(came[count:]))

            await until(is_slow)

    play(tmp_path, story)


def test_an_answer_without_a_stream_is_as_fast_as_the_core_once_it_is_normal_again(tmp_path: Path) -> None:
    async def story(client: Client) -> None:
        await client.change(seconds_per_token=0.3)  # ten minutes for this answer
        answer = asyncio.create_task(client.http.post(f"{client.url}/v1/completions", json={**BODY, "stream": False}))

        async def is_running() -> bool:
            return bool((await client.figures()).generated_tokens)

        await until(is_running)
        await client.change(seconds_per_token=0.0)
        assert (await answer).json()["usage"]["completion_tokens"] == BODY["max_tokens"]

    play(tmp_path, story)


@pytest.mark.parametrize(
    "wanted", [{"dead": True}, {"seconds_per_token": "5"}, {"preempt": 3}, {"step_s": -1.0}, [], None]
)
def test_an_invalid_change_is_refused(tmp_path: Path, wanted: object) -> None:
    with fake_engine(tmp_path, "--faults") as engine:
        answered = httpx.post(f"{engine.url}/standin/core", content=json.dumps(wanted))
        assert answered.status_code == 400
    with fake_engine(tmp_path) as engine:
        assert httpx.get(f"{engine.url}/standin/core").status_code == 404
