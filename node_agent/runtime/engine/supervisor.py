"""Keep the engine running: start it, wait until it answers, watch it, restart it within bounds.

Ready means /health *and* one warm-up completion: vLLM's /health is 200 before the first request was ever computed, and
stays so while it drains, and while its core hangs. Before the node becomes ready, the agent examines what this engine
supports; from then on the watchdog observes its work (`runtime/engine/watchdog`). An engine that is not ready is not
stuck: a model needs time to load, and a first request compiles.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import orjson

from node_agent.core.common.address import Address
from node_agent.core.common.backoff import Backoff
from node_agent.core.engine.last_words import LastWords, last_words
from node_agent.core.engine.polled_paths import HEALTH
from node_agent.core.node.lifecycle import EngineGaveUp, EngineLost, EngineReady, Event
from node_agent.ports import EngineGroup, ExchangeLost, Http
from node_agent.runtime.engine.lifetime_tracker import LifetimeTracker

_POLL_S = 0.1
_HEALTH_EVERY_S = 1.0
_HEALTH_SILENCE_S = 5.0
_WARM_UP_SILENCE_S = 120.0
_FAILURES_TO_LOSE = 3
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EnginePlan:
    """How to run the engine.

    address: where the engine listens.
    start_s: how long it may take until healthy.
    restarts: in a row.
    """

    address: Address
    model_name: str
    start_s: float
    restarts: int


class EngineSupervisor:
    """Supervises the engine's process group.

    lifetimes: the supervisor records each start and end there, for the requests at the engine.
    post: sends an event to the reactor.
    clock: unix seconds.
    chance: uniform in [0, 1), for backoff.
    examine: called once for each engine that answers, before it is ready; it bounds its own time.
    until_stuck: called for each ready engine, with the seconds that its warm-up took; returns why it no longer works.
    """

    def __init__(
        self,
        plan: EnginePlan,
        group: EngineGroup,
        lifetimes: LifetimeTracker,
        client: Http,
        post: Callable[[Event], None],
        clock: Callable[[], float],
        chance: Callable[[], float],
        examine: Callable[[], Awaitable[None]],
        until_stuck: Callable[[float], Coroutine[Any, Any, str]],
    ) -> None:
        self._plan = plan
        self._group = group
        self._lifetimes = lifetimes
        self._client = client
        self._post = post
        self._clock = clock
        self._chance = chance
        self._examine = examine
        self._until_stuck = until_stuck
        self._loop_time = asyncio.get_running_loop().time
        self._warm_up_s = 0.0
        self._status: int | None = None  # of an engine that ended by itself before it was ready
        self._backoff = Backoff(first_s=1.0, max_s=60.0, max_attempts=plan.restarts + 1)

    async def run(self) -> None:
        """Supervise, until cancelled or until the restarts are used up."""
        failures = 0
        was_ready = False
        while True:
            try:
                await self._start()
            except OSError as error:
                self._post(EngineGaveUp(self._clock(), f"its command cannot be run: {error}"))
                return
            why = await self._until_ready()
            if why is None:
                failures = 0
                was_ready = True
                await self._examine()
                self._post(EngineReady(self._clock()))
                why = await self._until_lost()
                self._post(EngineLost(self._clock(), why))
            failures += 1
            _log.warning("the engine is lost: %s (%d in a row)", why, failures)
            await self.stop(0.0)
            words = await self._last_words()
            if words is not None:
                _log.error("the engine's own last words: %s", words.text)
                why = f"{why}: {words.text}"
                # Once an engine was ready its settings do work, and the same error has another cause.
                if words.is_permanent and not was_ready:
                    self._post(EngineGaveUp(self._clock(), words.text, is_permanent=True))
                    return
            wait_s = self._backoff.wait_s(failures, self._chance())
            if wait_s is None:
                self._post(EngineGaveUp(self._clock(), why))
                return
            await asyncio.sleep(wait_s)

    async def stop(self, grace_s: float) -> None:
        """Stop the engine, with SIGKILL after `grace_s` seconds, and record its end."""
        await self._group.stop(grace_s)
        self._lifetimes.ended()

    async def _start(self) -> None:
        """Start the engine, and record that. Raises OSError where its command cannot be run."""
        await self._group.start()
        self._lifetimes.started()

    async def _wait(self) -> int:
        """Wait until the engine's process ends, and record that; return its exit status (negative: the signal)."""
        status = await self._group.wait()
        self._lifetimes.ended(status, had_oom_kill=self._group.had_oom_kill())
        return status

    async def _last_words(self) -> LastWords | None:
        """Return the engine's last words; None where it did not end by itself, or wrote no error."""
        status, self._status = self._status, None
        if status is None:
            return None
        # In a thread: it waits up to a second where a process that left the group still holds the pipe.
        return last_words(await asyncio.to_thread(self._group.last_output), status)

    async def _until_ready(self) -> str | None:
        """Wait for the engine; return None when it answers, else the reason why not."""
        ended = asyncio.ensure_future(self._wait())
        try:
            async with asyncio.timeout(self._plan.start_s):
                while not await self._healthy():
                    if ended.done():
                        self._status = ended.result()
                        return f"it ended with status {ended.result()} before it was healthy"
                    await asyncio.sleep(_POLL_S)
            return await self._warm_up()
        except TimeoutError:
            return f"not healthy after {self._plan.start_s:.0f} s"
        finally:
            ended.cancel()

    async def _until_lost(self) -> str:
        self._group.note_shared_memory()
        ends = (self._ended(), self._until_stuck(self._warm_up_s), self._unhealthy())
        waits = [asyncio.ensure_future(end) for end in ends]
        try:
            done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            return next(wait.result() for wait in waits if wait in done)
        finally:
            for wait in waits:
                wait.cancel()

    async def _ended(self) -> str:
        return f"it ended with status {await self._wait()}"

    async def _unhealthy(self) -> str:
        failures = 0
        while failures < _FAILURES_TO_LOSE:
            await asyncio.sleep(_HEALTH_EVERY_S)
            failures = 0 if await self._healthy() else failures + 1
        return f"/health failed {failures} times in a row"

    async def _healthy(self) -> bool:
        return await self._request("GET", HEALTH, b"", _HEALTH_SILENCE_S) == 200

    async def _warm_up(self) -> str | None:
        body = orjson.dumps({"model": self._plan.model_name, "prompt": "warm up", "max_tokens": 1})
        began = self._loop_time()
        status = await self._request("POST", "/v1/completions", body, _WARM_UP_SILENCE_S)
        self._warm_up_s = self._loop_time() - began
        return None if status == 200 else f"its warm-up completion ended with {status or 'no answer'}"

    async def _request(self, method: str, target: str, body: bytes, read_timeout_s: float) -> int | None:
        """Return the status of a complete response, else None."""
        headers = {"content-type": "application/json"}
        try:
            exchange = await self._client.open(
                self._plan.address, method, target, headers=headers, body=body, read_timeout_s=read_timeout_s
            )
            try:
                await exchange.read_all(1024 * 1024)
                return exchange.status
            finally:
                exchange.close()
        except ExchangeLost:
            return None
