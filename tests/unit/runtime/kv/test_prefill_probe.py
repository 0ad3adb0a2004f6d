"""How fast an engine reads, measured at its start."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from node_agent.core.common.address import Address
from node_agent.runtime.kv.prefill_probe import PrefillProbe
from tests.unit.runtime.kv.kv_stage import (
    Clock,
    NoPeers,
)


class Answer:
    status = 200

    def __init__(self, clock: Clock, took_s: float, status: int) -> None:
        self._clock, self._took_s, self.status = clock, took_s, status

    async def read_all(self, _: int) -> bytes:
        self._clock.now += self._took_s
        return b"{}"

    def close(self) -> None:
        """Nothing is open."""


class Timed:
    """An engine that computes 1,000 tokens/s, and takes 50 ms besides; `longest`: what it takes at most."""

    def __init__(self, clock: Clock, longest: int = 10**6, each_s: float = 0.001) -> None:
        self._clock, self._longest, self._each_s = clock, longest, each_s
        self.ids: list[str] = []
        self._warming_s = 3.0  # the first answer takes longer than any other

    async def open(self, *_: Any, headers: dict[str, str], body: bytes, **__: Any) -> Answer:
        tokens = body.count(b",") - 2
        self.ids.append(headers["x-request-id"])
        took_s = 0.05 + self._each_s * tokens + self._warming_s
        self._warming_s = 0.0
        return Answer(self._clock, took_s, 200 if tokens <= self._longest else 400)


@pytest.mark.parametrize(
    ("longest", "each_s", "rate"),
    [(10**6, 0.001, 1000.0), (512, 0.001, 1000.0), (100, 0.001, None), (10**6, 0.0, None)],
)
def test_prefill_is_measured_as_far_as_the_engine_takes_it(longest: int, each_s: float, rate: float | None) -> None:
    clock = Clock()
    engine = Timed(clock, longest, each_s)
    probe = PrefillProbe(engine, Address("h", 1), "m", lambda count, low, high: [low] * count, clock)  # type: ignore[arg-type]
    measured = asyncio.run(probe.tokens_per_s())
    assert measured == (None if rate is None else pytest.approx(rate))
    assert all("synkti-probe" in name for name in engine.ids)


def test_an_engine_that_does_not_answer_is_not_measured() -> None:
    probe = PrefillProbe(NoPeers(), Address("h", 1), "m", lambda count, low, high: [low] * count, Clock())  # type: ignore[arg-type]
    assert asyncio.run(probe.tokens_per_s()) is None
