"""When this node sends what is queued: what finds no room in probes, and its own load."""

from __future__ import annotations

from collections.abc import Callable

from node_agent.core.membership.active_clock import ActiveClock
from node_agent.core.membership.broadcast_queue import BroadcastQueue, LoadQueue, UsageQueue
from node_agent.core.membership.config import GossipConfig
from node_agent.core.membership.inbound import MessageReceiver
from node_agent.core.membership.member_table import MemberTable
from node_agent.core.membership.outbound import LocalNode, MessageEncoder
from node_agent.core.membership.timers import Timers
from node_agent.core.membership.wire.messages import MessageKind

_SHARP_CHANGE = 4
"""A load that changed by that many requests in flight, or by half, is sent before its turn."""

_SHARP_SPEEDUP = 8


class GossipSchedule:
    """Sends gossip to random members, every `gossip_interval_s`. send: sends a datagram to an address."""

    def __init__(
        self,
        local: LocalNode,
        table: MemberTable,
        encoder: MessageEncoder,
        broadcasts: BroadcastQueue,
        loads: LoadQueue,
        usages: UsageQueue,
        receiver: MessageReceiver,
        timers: Timers,
        config: GossipConfig,
        clock: ActiveClock,
        send: Callable[[str, bytes], None],
    ) -> None:
        self._local = local
        self._table = table
        self._encoder = encoder
        self._broadcasts = broadcasts
        self._loads = loads
        self._usages = usages
        self._receiver = receiver
        self._timers = timers
        self._config = config
        self._clock = clock
        self._send = send
        self._sent_load = local.load
        self._next_load_at = 0.0

    def run(self) -> None:
        """Send what is queued, and schedule the next run."""
        now = self._clock.now
        self._timers.schedule(now + self._config.gossip_interval_s, self.run)
        self._broadcast_load(now)
        if len(self._broadcasts) or len(self._usages):
            self.send(self._config.fanout)
        elif len(self._loads):
            self.send(1)
        self._receiver.send_accusations()

    def send(self, count: int) -> None:
        """Send a message with queued updates to each of `count` random members."""
        for member in self._table.present.sample(count):
            self._send(
                member.status.peer_address,
                self._encoder.encode_datagram(MessageKind.GOSSIP, member.boot_id, self._table.nodes),
            )

    def _broadcast_load(self, now: float) -> None:
        """Queue the load if it changed and its turn has come: the larger the fleet, the more seldom."""
        load, sent = self._local.load, self._sent_load
        if load == sent or self._local.has_left:
            return
        every_s = max(self._config.min_load_interval_s, self._table.nodes / self._config.loads_per_s)
        change = abs(load.in_flight - sent.in_flight)
        sharp = change > max(_SHARP_CHANGE, sent.in_flight // 2)
        if now < self._next_load_at - (every_s - every_s / _SHARP_SPEEDUP if sharp else 0.0):
            return
        self._sent_load = load
        self._next_load_at = now + every_s
        self._loads.add(self._local.boot_id, self._local.write_next_load())
