"""Look-ups in the checkpoint store while a client waits: answered, or given up in time."""

from __future__ import annotations

import asyncio

import pytest

from node_agent.contract.table_schema import StreamRecord
from node_agent.core.replication.replica_store import ReplicaStore
from node_agent.runtime.replication import checkpointer as checkpointing
from node_agent.runtime.replication.checkpointer import Checkpointer
from node_agent.testing.fakes import MemoryCheckpoints
from tests.unit.runtime.a_node import make_node

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
    monkeypatch.setattr(checkpointing, "_FIND_TIMEOUT_S", 0.05)

    async def story() -> bool | object | None:
        async with asyncio.timeout(10):
            return await Checkpointer(make_node(0), ReplicaStore(), store).find(STREAM)

    assert asyncio.run(story()) is (None if isinstance(store, Silent) else False)
