"""The suspicion against one request: engines that die under it, until one answers it or it is refused."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from node_agent.contract.errors import RequestRejected
from node_agent.core.failure.loss import EngineDeath, LossReason
from node_agent.runtime.client_api.request_suspicion import RequestSuspicion
from tests.unit.runtime.a_node import make_node

BODY = {"model": "m", "prompt": "x"}


def died(number: str) -> EngineDeath:
    return EngineDeath(LossReason.ENGINE_DIED, number, alone=True)


def test_a_request_is_suspect_after_one_death_and_refused_after_two() -> None:
    async def story() -> None:
        suspicion = RequestSuspicion(make_node(0).crash_suspects, BODY)
        assert not suspicion.is_suspect()
        suspicion.on_death("i-1", died("1"))
        assert suspicion.is_suspect()
        suspicion.on_death("i-2", died("1"))
        with pytest.raises(RequestRejected):
            suspicion.raise_if_refused()

    asyncio.run(story())


def test_an_answer_clears_the_request_and_no_other() -> None:
    async def story() -> None:
        suspects = make_node(0).crash_suspects
        suspicion, other = RequestSuspicion(suspects, BODY), RequestSuspicion(suspects, {**BODY, "prompt": "y"})
        suspicion.on_death("i-1", died("1"))
        other.on_answer()
        assert suspicion.is_suspect()
        suspicion.on_answer()
        assert not suspicion.is_suspect()

    asyncio.run(story())


class Unread(Mapping[str, Any]):
    """A body that must not be read."""

    def __getitem__(self, key: str) -> Any:
        raise AssertionError(key)

    def __iter__(self) -> Iterator[str]:
        raise AssertionError("it was read")

    def __len__(self) -> int:
        raise AssertionError("it was read")


def test_no_body_is_read_while_nothing_is_suspected() -> None:
    async def story() -> None:
        suspicion = RequestSuspicion(make_node(0).crash_suspects, Unread())
        assert not suspicion.is_suspect()
        suspicion.on_answer()

    asyncio.run(story())
