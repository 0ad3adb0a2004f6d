"""Leaves the journals that somebody may still need when this node goes, and finds those that others left.

For the case that every node that knows a stream goes: a fleet that is stopped and started, or one that lost more nodes
at once than there are copies. While any of them is there, nobody asks for a checkpoint.
"""

from __future__ import annotations

import asyncio
import logging
import re

from node_agent.contract.errors import StoreUnavailable
from node_agent.contract.table_schema import StreamRecord
from node_agent.core.replication.checkpoint import CheckpointObject, build_objects, read_journal
from node_agent.core.replication.replica_store import JournalSnapshot, ReplicaStore
from node_agent.ports import Checkpoints
from node_agent.runtime.node.context import NodeContext

_STREAM_ID = re.compile(r"[0-9a-f]{24}")
"""What this fleet calls its streams; for anything else the table need not be asked."""

_FIND_TIMEOUT_S = 3.0
"""A client that comes back waits for the answer; with AWS away it is to ask again, not to wait for AWS's time-outs."""

_log = logging.getLogger(__name__)


class Checkpointer:
    """own: the journals that this node keeps; store: None where checkpoints are kept nowhere."""

    def __init__(self, node: NodeContext, own: ReplicaStore, store: Checkpoints | None) -> None:
        self._node = node
        self._replicas = own
        self._checkpoints = store

    async def write_all(self, within_s: float) -> None:
        """Write a checkpoint of every journal that somebody may still need; what takes longer is lost, and counted."""
        if self._checkpoints is None:
            return
        now, node = self._node.clock(), self._node
        left = list(build_objects(self._replicas.unfinished(), node.instance_id, node.incarnation, now))
        if not left:
            return
        writing = {asyncio.ensure_future(self._write(self._checkpoints, parcel)): parcel for parcel in left}
        _, late = await asyncio.wait(writing, timeout=within_s)
        for task in late:
            task.cancel()
            _log.warning("checkpoints of %d streams took longer than %.1f s", len(writing[task].records), within_s)
            node.metrics.checkpoints.labels("late").inc(len(writing[task].records))

    async def _write(self, store: Checkpoints, parcel: CheckpointObject) -> None:
        count = len(parcel.records)
        try:
            written = await store.write(parcel.key, parcel.body, parcel.records)
        except StoreUnavailable as error:
            _log.warning("checkpoints of %d streams could not be written: %s", count, error)
            self._node.metrics.checkpoints.labels("failed").inc(count)
            return
        _log.info("left checkpoints of %d streams in %s", written, parcel.key)
        self._node.metrics.checkpoints.labels("written").inc(written)
        self._node.metrics.checkpoints.labels("newer-there").inc(count - written)

    async def find(self, stream: str) -> JournalSnapshot | bool | None:
        """The journal that a node left, for a new owner; else whether there was one. None: the store cannot be asked.

        The same answers as a peer gives (`runtime/replication/takeover`).
        """
        if self._checkpoints is None or _STREAM_ID.fullmatch(stream) is None:
            return False
        try:
            async with asyncio.timeout(_FIND_TIMEOUT_S):
                record = await self._checkpoints.find(stream)
                if record is None:
                    return False
                if record.expires_at <= self._node.clock():
                    return True
                return await self._read(self._checkpoints, record)
        except (StoreUnavailable, TimeoutError) as error:
            why = str(error) or f"AWS did not answer within {_FIND_TIMEOUT_S:.0f} s"
            _log.warning("stream %s: whether it was left is not known: %s", stream, why)
            return None

    async def _read(self, store: Checkpoints, record: StreamRecord) -> JournalSnapshot | bool:
        body = await store.read(record)
        if body is None:
            return True
        try:
            return read_journal(record, body)
        except (ValueError, KeyError, TypeError) as error:
            _log.error("the checkpoint of stream %s in %s is damaged: %s", record.stream, record.object_key, error)
            return False
