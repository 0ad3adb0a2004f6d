"""The load that a node reports of its engine: counted here, and read from vLLM's metrics."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from node_agent.contract.states import NodeState
from node_agent.core.common.address import Address
from node_agent.core.failure.loss import LossReason
from node_agent.ports import ExchangeLost
from node_agent.runtime.engine.active_requests import EngineCalls
from node_agent.runtime.engine.load_monitor import LoadMonitor
from tests.unit.runtime.a_node import make_node

ADDRESS = Address("127.0.0.1", 1)


def figures(running: int, waiting: int, kv_use: float) -> bytes:
    named = {"num_requests_running": running, "num_requests_waiting": waiting, "kv_cache_usage_perc": kv_use}
    return "".join(f"vllm:{name} {value}\n" for name, value in named.items()).encode()


class Exchange:
    reads = status = 0
    first_read_at = last_read_at = 0.0
    is_event_stream = False

    def __init__(self, text: bytes) -> None:
        self._text = text

    async def read_all(self, max_bytes: int) -> bytes:
        return self._text

    def close(self) -> None:
        """Nothing to close."""


class Engine:
    """Answers /metrics with `text`, or not at all where it is None. scrapes: how often."""

    def __init__(self) -> None:
        self.text: bytes | None = b""
        self.scrapes = 0

    async def open(self, *_: object, **__: object) -> Exchange:
        self.scrapes += 1
        if self.text is None:
            raise ExchangeLost(LossReason.SILENCE)
        return Exchange(self.text)

    def request(self, *_: object, **__: object) -> Exchange:
        return Exchange(b"")


async def until(check: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not check():  # noqa: ASYNC110 # of any condition
            await asyncio.sleep(0.01)


def test_queue_and_kv_use_come_from_the_engine_and_requests_are_counted_here() -> None:
    async def story() -> None:
        node, engine = make_node(0), Engine()
        http: Any = engine
        served = EngineCalls(node, http, ADDRESS)
        for _ in range(3):
            served.request("POST", "/", {}, b"", None, 1.0)
        loads = LoadMonitor(node, served, http, ADDRESS, lambda: 1_200.0)
        engine.text = figures(1, 2, 0.5)
        looking = asyncio.ensure_future(loads.run())
        await until(lambda: node.load_of("i-0").waiting == 2)
        load = node.load_of("i-0")
        assert (load.running, load.in_flight, load.kv_use, load.prefill_tokens_s) == (1, 3, 0.5, 1_200.0)
        assert loads.exposition == engine.text

        # No answer, or nonsense: neither an empty queue nor one longer than possible follows from it.
        engine.text, scrapes = None, engine.scrapes
        await until(lambda: engine.scrapes > scrapes)
        assert loads.load().waiting == 2
        assert loads.exposition == b"", "old figures are not passed on as new ones"
        engine.text, scrapes = figures(9, 99, 2.0), engine.scrapes
        await until(lambda: engine.scrapes > scrapes + 1)
        assert (loads.load().in_flight, loads.load().kv_use) == (3, 1.0)
        looking.cancel()

    asyncio.run(story())


def test_an_engine_that_is_not_ready_is_not_scraped() -> None:
    async def story() -> None:
        node, engine = make_node(0), Engine()
        node.set_state(NodeState.STARTING)
        http: Any = engine
        loads = LoadMonitor(node, EngineCalls(node, http, ADDRESS), http, ADDRESS, lambda: 0.0)
        looking = asyncio.ensure_future(loads.run())
        await until(lambda: node.router.own_load.load_version > 1)
        assert engine.scrapes == 0
        looking.cancel()

    asyncio.run(story())


def test_between_two_looks_what_arrives_at_a_full_engine_waits_and_what_ends_lets_one_in() -> None:
    async def story() -> None:
        node, engine = make_node(0), Engine()
        http: Any = engine
        calls = EngineCalls(node, http, ADDRESS)
        open_calls = [calls.request("POST", "/", {}, b"", None, 1.0) for _ in range(5)]
        loads = LoadMonitor(node, calls, http, ADDRESS, lambda: 0.0)
        engine.text = figures(3, 2, 0.5)
        looking = asyncio.ensure_future(loads.run())
        await until(lambda: node.load_of("i-0").waiting == 2)
        scrapes = engine.scrapes
        open_calls += [calls.request("POST", "/", {}, b"", None, 1.0) for _ in range(4)]
        assert (loads.load().running, loads.load().waiting) == (3, 6)
        for call in open_calls[:7]:
            call.close()
        assert (loads.load().running, loads.load().waiting) == (2, 0)
        for _ in range(8):
            calls.request("POST", "/", {}, b"", None, 1.0)
        engine.text = figures(10, 0, 0.5)
        await until(lambda: engine.scrapes > scrapes)  # at its next turn, because more have arrived than may wait
        await until(lambda: node.load_of("i-0").running == 10)
        looking.cancel()

    asyncio.run(story())
