"""Copy journals that this node stores to other nodes: those without an owner, and all when this node terminates."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from node_agent.core.replication.placement import Candidates
from node_agent.core.replication.protocol import OpenMessage, encode_open
from node_agent.core.replication.replica_store import JournalReplica, ReplicaStore
from node_agent.core.replication.replicated_log import ReplicatedLog
from node_agent.runtime.common.batches import batches
from node_agent.runtime.node.context import NodeContext

_JOURNALS_PER_TURN = 8
"""Journals that are copied in one turn of the event loop: each is encoded whole."""


class JournalCopier:
    """Copies journals of the store.

    Args:
        node: this node and its view of the fleet.
        store: this node's replicas of other nodes' journals.
        candidates: returns the peers that may get a journal now.
        send: sends a journal to a peer, given by instance id; returns its ack.
    """

    def __init__(
        self,
        node: NodeContext,
        store: ReplicaStore,
        candidates: Callable[[], Candidates],
        send: Callable[[str, ReplicatedLog], asyncio.Future[None]],
    ) -> None:
        self._node = node
        self._store = store
        self._candidates = candidates
        self._send = send

    async def evacuate(self, within_s: float) -> None:
        """Copy each unfinished journal to another node, because this one terminates.

        within_s: how long to wait for the acks.
        """
        acks: list[asyncio.Future[None]] = []
        for batch in batches(list(self._store.unfinished()), _JOURNALS_PER_TURN):
            candidates = self._candidates()
            for name, journal in batch:
                acks += self._copy(name, journal, 1, candidates)
            await asyncio.sleep(0)
        if acks:
            await asyncio.wait(acks, timeout=within_s)

    async def copy_orphans(self, copies: int) -> None:
        """Copy the journals whose owner is gone until so many other nodes that are alive have them."""
        orphans = list(self._store.orphans(self._node.wall_clock()))
        for batch in batches(orphans, _JOURNALS_PER_TURN):
            candidates = self._candidates()
            alive = {peer.instance_id for peer in self._node.present}
            for name, journal in batch:
                self._copy(name, journal, copies - len(journal.copied_to & alive), candidates)
            await asyncio.sleep(0)

    def _copy(
        self, name: str, journal: JournalReplica, copies: int, candidates: Candidates
    ) -> list[asyncio.Future[None]]:
        """Send a journal to the best peers that did not receive it from here. Returns their acks."""
        chosen = candidates.for_copies(name, journal.copied_to)[:copies] if copies > 0 else []
        if not chosen:
            return []
        log = ReplicatedLog(
            name, journal.written_epoch, journal.header, lines=journal.lines, seq=journal.seq, client=journal.client
        )
        journal.copied_to.update(chosen)
        return [self._send(peer, log) for peer in chosen]


def open_message(handle: int, log: ReplicatedLog) -> bytes:
    """Encode a whole journal as an OPEN."""
    opened = OpenMessage(log.stream, log.epoch, log.client, log.header, bytes(log.lines))
    return encode_open(handle, opened, log.seq)
