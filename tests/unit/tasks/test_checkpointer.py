"""What a node asks of the checkpoints while a client waits: answered, or given up in time."""

from __future__ import annotations

import asyncio

import pytest

from node_agent.adapters.memory import MemoryCheckpoints
from node_agent.contract.records import StreamRecord
from node_agent.core.keeper import Keeper
from node_agent.tasks import checkpointer as checkpointing
from node_agent.tasks.checkpointer import Checkpointer
from tests.unit.tasks.a_node import make_node

STREAM = "0" * 24


class Silent(MemoryCheckpoints):
    async def find(self, stream: str) -> StreamRecord | None:
        await asyncio.Event().wait()
        raise AssertionError("it never answers")


@pytest.mark.parametrize("store", [Silent(), MemoryCheckpoints()])
def test_whether_a_stream_was_left_is_known_in_time_or_not_known(
    store: MemoryCheckpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that came back waited for all of AWS's time-outs, 39 s."""
    monkeypatch.setattr(checkpointing, "_FIND_WITHIN_S", 0.05)

    async def story() -> bool | object | None:
        async with asyncio.timeout(10):
            return await Checkpointer(make_node(0), Keeper(), store).find(STREAM)

    assert asyncio.run(story()) is (None if isinstance(store, Silent) else False)
