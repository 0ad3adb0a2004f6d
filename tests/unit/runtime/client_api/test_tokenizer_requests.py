"""Requests whose whole work is a tokenizer's are bounded in size, and few at once."""

from __future__ import annotations

import asyncio

import pytest

from node_agent.contract.errors import FleetFull, RequestRejected
from node_agent.runtime.client_api.tokenizer_requests import (
    DEFAULT_LIMIT_BYTES,
    MAX_CONCURRENCY,
    MAX_WAITING,
    MIN_LIMIT_BYTES,
    TokenizerRequests,
)


@pytest.mark.parametrize(
    ("max_model_len", "most"), [(131_072, 8 * 131_072), (100, MIN_LIMIT_BYTES), (None, DEFAULT_LIMIT_BYTES)], ids=str
)
def test_a_body_is_as_large_as_the_context_needs(max_model_len: int | None, most: int) -> None:
    async def story() -> None:
        tokenizing = TokenizerRequests()
        async with tokenizing.slot(most, max_model_len):
            pass
        with pytest.raises(RequestRejected, match="tokenized") as refused:
            async with tokenizing.slot(most + 1, max_model_len):
                raise AssertionError("it has a place")
        assert refused.value.status == 413

    asyncio.run(story())


def test_few_are_under_way_some_wait_and_the_rest_is_sent_away() -> None:
    async def story() -> None:
        tokenizing, leave = TokenizerRequests(), asyncio.Event()
        running, most = 0, 0

        async def one() -> None:
            nonlocal running, most
            async with tokenizing.slot(1, None):
                running += 1
                most = max(most, running)
                await leave.wait()
                running -= 1

        tasks = [asyncio.ensure_future(one()) for _ in range(MAX_CONCURRENCY + MAX_WAITING)]
        await asyncio.sleep(0)
        assert running == MAX_CONCURRENCY
        with pytest.raises(FleetFull):
            await one()
        tasks[-1].cancel()  # its client is gone: another may wait
        await asyncio.sleep(0)
        tasks[-1] = asyncio.ensure_future(one())
        leave.set()
        async with asyncio.timeout(5):
            await asyncio.gather(*tasks)
        assert most == MAX_CONCURRENCY

    asyncio.run(story())
