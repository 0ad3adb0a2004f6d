"""Reports of what keys use of their limits: this node's go out, peers' are passed on and given to the owner.

The newest report of a node counts, and only of a member that EC2 vouches for: others' clients get no requests answered,
so that a report of theirs could only take from the limits of keys. What a report means is not decided here
(`core/access/key_usage`).
"""

from __future__ import annotations

from collections.abc import Callable

from node_agent.core.membership.broadcast_queue import UsageQueue
from node_agent.core.membership.events import KeyUsageReceived
from node_agent.core.membership.member_table import MemberTable
from node_agent.core.membership.outbound import LocalNode
from node_agent.core.membership.wire.updates import KeyUsage, write_key_usage_update


class KeyUsageGossip:
    """Queues reports. on_received: receives each new one of a peer."""

    def __init__(
        self,
        local: LocalNode,
        table: MemberTable,
        queue: UsageQueue,
        on_received: Callable[[KeyUsageReceived], None],
    ) -> None:
        self._local = local
        self._table = table
        self._queue = queue
        self._on_received = on_received

    def send(self, packed: bytes) -> None:
        """Queue this node's report under its next version; nothing after this node has left."""
        if not self._local.has_left:
            self._queue.add(self._local.boot_id, self._local.write_next_usage(packed))

    def receive(self, update: KeyUsage) -> None:
        """Pass on a member's report, where it is newer than the last one."""
        member = self._table.by_boot_id.get(update.boot_id)
        if member is None or not (member.is_vouched and member.liveness.is_present):
            return
        if update.version > member.usage_version:
            member.usage_version = update.version
            self._queue.add(update.boot_id, write_key_usage_update(*update))
            self._on_received(KeyUsageReceived(update.boot_id, update.packed))
