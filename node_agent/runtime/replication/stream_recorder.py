"""Write to the table which streams this node owns, and find the nodes that have a stream's journal.

In the background: no token, no stream and no drain waits for it. While AWS is unavailable the records are late, and a
node that dies then leaves older ones.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence

from node_agent.contract.errors import StaleEpoch, StoreUnavailable
from node_agent.contract.open_streams import is_stream_id
from node_agent.contract.ownership import Ownership
from node_agent.contract.states import NodeState
from node_agent.contract.table_schema import StreamStatus
from node_agent.core.replication.owned_streams import OwnedStreams
from node_agent.core.replication.replica_store import ReplicaStore
from node_agent.core.replication.replicated_log import CloseReason, ReplicatedLog
from node_agent.ports import StreamRecords
from node_agent.runtime.common.batches import batches
from node_agent.runtime.node.context import NodeContext

_FIND_TIMEOUT_S = 3.0
"""A client that reconnects waits for this; where AWS is unavailable it is to retry, not to wait for AWS."""

_ROUND_TIMEOUT_S = 60.0
"""The timeout of one round of writes, whatever the adapter's own: then it is tried again."""

_CHANGES_PER_WRITE = 64
_log = logging.getLogger(__name__)


class StreamRecorder:
    """Records the streams of this node. replicas: this node's store; records: None where there is no table."""

    def __init__(self, node: NodeContext, replicas: ReplicaStore, records: StreamRecords | None) -> None:
        self.streams = OwnedStreams(node.instance_id, node.incarnation)
        self._node = node
        self._replicas = replicas
        self._records = records
        self._has_read_previous = False
        self._wake = asyncio.Event()
        self._writing = asyncio.Lock()
        self._counted_dropped = 0

    # what happens

    def opened(self, log: ReplicatedLog) -> None:
        """Record that this node became a stream's owner."""
        if self._records is not None:
            self.streams.opened(log, self._node.wall_clock())

    def closed(self, log: ReplicatedLog, reason: CloseReason) -> None:
        """Record that a stream ended here."""
        self.streams.closed(log, reason, self._node.wall_clock())

    def on_state(self, state: NodeState, deadline: float | None) -> None:
        """Record this node's state, and write soon. deadline: of a drain, unix seconds."""
        self.streams.set_state(state, deadline)
        self._wake.set()

    def on_peer_lost(self, instance_id: str) -> None:
        """Record that a peer is dead."""
        if self._records is not None:
            self.streams.owner_lost(instance_id, self._replicas.ended(), self._node.wall_clock())

    # writes

    async def run(self) -> None:
        """Write until cancelled."""
        if self._records is None:
            return
        while True:
            try:
                async with asyncio.timeout(self.streams.wait_s(self._node.wall_clock())):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()
            await self._write(self._records)

    async def flush(self, within_s: float) -> None:
        """Write what is due before this node ends. within_s: what takes longer is lost."""
        if self._records is None:
            return
        try:
            async with asyncio.timeout(within_s):
                await self._write(self._records)
        except TimeoutError:
            _log.warning("the records of this node's streams took longer than %.1f s", within_s)

    async def _write(self, records: StreamRecords) -> None:
        """Write what is due; what fails is due again."""
        self.streams.attempt(self._node.wall_clock())
        try:
            async with self._writing, asyncio.timeout(_ROUND_TIMEOUT_S):
                await self._read_previous(records)
                await self._write_round(records)
        except (StoreUnavailable, TimeoutError) as error:
            reason = str(error) or f"AWS did not answer within {_ROUND_TIMEOUT_S:.0f} s"
            _log.warning("the records of this node's streams are late: %s", reason)
            self._count("failed", 1)

    async def _read_previous(self, records: StreamRecords) -> None:
        """Find, once, the streams that an older incarnation of this node has left: its record is replaced later."""
        if self._has_read_previous:
            return
        previous = await records.read_open(self._node.instance_id)
        self._has_read_previous = True
        self.streams.orphan(previous, self._node.wall_clock())

    async def _write_round(self, records: StreamRecords) -> None:
        now = self._node.wall_clock()
        due = self.streams.due(now, self._peer_address)
        await self._advance(records, due.ended)
        if due.record is not None:
            try:
                await records.write_open(due.record)
            except StaleEpoch as stale:
                _log.warning("%s; it stays as it is", stale)
            self.streams.record_written(due.record, now)
            self._count("open-streams", 1)
        await self._advance(records, due.opened)
        self._count("dropped", self.streams.dropped - self._counted_dropped)
        self._counted_dropped = self.streams.dropped

    async def _advance(self, records: StreamRecords, changes: Sequence[Ownership]) -> None:
        for some in batches(changes, _CHANGES_PER_WRITE):
            written = await records.advance(some)
            self.streams.changes_written(some)
            self._count("written", written)
            self._count("newer-there", len(some) - written)

    def _count(self, outcome: str, number: int) -> None:
        self._node.metrics.stream_records.labels(outcome).inc(number)

    def _peer_address(self, instance_id: str) -> str | None:
        member = self._node.member(instance_id)
        return member.status.peer_address if member is not None else None

    # look-ups

    async def find(self, stream: str) -> Mapping[str, str] | None:
        """Find the nodes that have the stream's journal, for a client that came back.

        Returns:
            The addresses of their peer APIs by instance id, none for a stream that is closed or has no record; None
            where AWS does not answer.
        """
        if self._records is None or not is_stream_id(stream):
            return {}
        try:
            async with asyncio.timeout(_FIND_TIMEOUT_S):
                found = await self._records.find(stream)
        except (StoreUnavailable, TimeoutError) as error:
            reason = str(error) or f"AWS did not answer within {_FIND_TIMEOUT_S:.0f} s"
            _log.warning("stream %s: its owner could not be looked up: %s", stream, reason)
            return None
        if found is None or found.status is StreamStatus.CLOSED or found.expires_at <= self._node.wall_clock():
            return {}
        return {name: address for name, address in found.replicas.items() if name != self._node.instance_id}
