"""Write checkpoints of unfinished journals when this node terminates, and find those of other nodes.

For the case that all nodes that have a stream terminate: a fleet that is stopped and started, or that lost more nodes
at once than there are replicas. While one of them is there, no checkpoint is read.
"""

from __future__ import annotations

import asyncio
import logging

from node_agent.contract.errors import StoreUnavailable
from node_agent.contract.open_streams import is_stream_id
from node_agent.contract.table_schema import StreamRecord
from node_agent.core.replication.checkpoint import CheckpointObject, build_objects, read_journal
from node_agent.core.replication.replica_store import JournalSnapshot, ReplicaStore
from node_agent.ports import Checkpoints
from node_agent.runtime.node.context import NodeContext

_FIND_TIMEOUT_S = 3.0
"""A client that reconnects waits for this; where AWS is unavailable it is to retry, not to wait for AWS."""

_log = logging.getLogger(__name__)


class Checkpointer:
    """Writes and reads checkpoints. replicas: this node's store; checkpoints: None where the fleet has no bucket."""

    def __init__(self, node: NodeContext, replicas: ReplicaStore, checkpoints: Checkpoints | None) -> None:
        self._node = node
        self._replicas = replicas
        self._checkpoints = checkpoints

    async def write_all(self, within_s: float) -> None:
        """Write a checkpoint of every unfinished journal. within_s: what takes longer is lost, and counted."""
        if self._checkpoints is None:
            return
        now, node = self._node.wall_clock(), self._node
        objects = list(build_objects(self._replicas.unfinished(), node.instance_id, node.incarnation, now))
        if not objects:
            return
        writing = {asyncio.ensure_future(self._write(self._checkpoints, content)): content for content in objects}
        _, late = await asyncio.wait(writing, timeout=within_s)
        for task in late:
            task.cancel()
            _log.warning("checkpoints of %d streams took longer than %.1f s", len(writing[task].records), within_s)
            node.metrics.checkpoints.labels("late").inc(len(writing[task].records))

    async def _write(self, checkpoints: Checkpoints, content: CheckpointObject) -> None:
        count = len(content.records)
        try:
            written = await checkpoints.write(content.key, content.body, content.records)
        except StoreUnavailable as error:
            _log.warning("checkpoints of %d streams could not be written: %s", count, error)
            self._node.metrics.checkpoints.labels("failed").inc(count)
            return
        _log.info("wrote checkpoints of %d streams to %s", written, content.key)
        self._node.metrics.checkpoints.labels("written").inc(written)
        self._node.metrics.checkpoints.labels("newer-there").inc(count - written)

    async def find(self, stream: str) -> JournalSnapshot | bool | None:
        """Read a stream's checkpoint, for a new owner. A peer answers alike (`runtime/replication/takeover`).

        Returns:
            The journal; else whether it existed and expired; None where AWS does not answer.
        """
        if self._checkpoints is None or not is_stream_id(stream):
            return False
        try:
            async with asyncio.timeout(_FIND_TIMEOUT_S):
                record = await self._checkpoints.find(stream)
                if record is None:
                    return False
                if record.expires_at <= self._node.wall_clock():
                    return True
                return await self._read(self._checkpoints, record)
        except (StoreUnavailable, TimeoutError) as error:
            reason = str(error) or f"AWS did not answer within {_FIND_TIMEOUT_S:.0f} s"
            _log.warning("stream %s: its checkpoint could not be looked up: %s", stream, reason)
            return None

    async def _read(self, checkpoints: Checkpoints, record: StreamRecord) -> JournalSnapshot | bool:
        body = await checkpoints.read(record)
        if body is None:
            return True
        try:
            return read_journal(record, body)
        except (ValueError, KeyError, TypeError) as error:
            _log.error("the checkpoint of stream %s in %s is damaged: %s", record.stream, record.object_key, error)
            return False
