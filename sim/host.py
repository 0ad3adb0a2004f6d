"""One simulated node: the real membership machine, and the agent's I/O for it."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable

from node_agent.contract.states import NodeState
from node_agent.core.failure.loss import LossReason
from node_agent.core.membership import (
    Effect,
    Event,
    GossipConfig,
    Leaving,
    LocalLoadSet,
    LocalStateSet,
    MemberChanged,
    Membership,
    NodesDiscovered,
    PeerRequestFailed,
    Received,
    Send,
    SendSync,
    SyncReplied,
    SyncReply,
    SyncRequested,
    Tick,
)
from node_agent.core.membership.member_table import MemberTable, Rng
from node_agent.core.membership.message_keys import MessageKeys
from node_agent.core.node.status import Load, NodeStatus, TaggedNode
from node_agent.core.node.vouched_nodes import VouchedNodes
from sim.network import ConnectResult, Network
from sim.scheduler import Scheduler

STREAM_PATIENCE_S = 2.0
_SOCKET_BUFFER_BYTES = 212_992
"""What Linux buffers for a socket that is not read (net.core.rmem_default)."""

Watch = Callable[["Host", MemberChanged], None]


class Host:
    """A node. membership: the machine; side, is_up, listens: as the network sees it."""

    def __init__(
        self,
        scheduler: Scheduler,
        network: Network[Host],
        status: NodeStatus,
        boot_id: bytes,
        key: bytes | MessageKeys,
        seed: str,
        watch: Watch,
        config: GossipConfig | None = None,
        max_nodes: int = 2_000,
        make_table: Callable[[Rng], MemberTable] | None = None,
        vouched: VouchedNodes | None = None,
    ) -> None:
        self.scheduler = scheduler
        self.network = network
        self.boot_id = boot_id
        self.seed = seed
        self.clock_offset_s = 0.0
        self.is_frozen = False
        self.recording: list[Event] | None = None
        """Every event, where it is to be replayed."""

        self._watch = watch
        self._held_back: deque[bytes] = deque()
        self._held_bytes = 0
        self.address = status.peer_address
        self.side = 0
        self.is_up = True
        self.listens = True
        network.plug_in(self)
        rng = random.Random(seed).random  # noqa: S311 # a simulation
        table = make_table(rng) if make_table is not None else None
        self.membership = Membership(
            status, boot_id, key, scheduler.now, rng, config=config, max_nodes=max_nodes, table=table,
            vouched=vouched,
        )  # fmt: skip
        self._due = float("inf")
        self._wait()

    @property
    def instance_id(self) -> str:
        """The EC2 instance's id, which a restart of the agent does not change."""
        return self.membership.status.instance_id

    @property
    def is_running(self) -> bool:
        """True where the agent would answer now."""
        return self.is_up and self.listens and not self.is_frozen

    @property
    def clock(self) -> float:
        """The time on this host's clock."""
        return self.scheduler.now + self.clock_offset_s

    # what happens to it

    def tagged(self, nodes: list[TaggedNode]) -> None:
        """Give the machine the result of a DescribeInstances call."""
        self.handle(NodesDiscovered(self.clock, nodes))

    def announce(self, state: NodeState) -> None:
        """Set the node's own state, which gossip then spreads."""
        self.handle(LocalStateSet(self.clock, state))

    def set_load(self, load: Load) -> None:
        """Set the load of the node's own engine, which gossip then spreads."""
        self.handle(LocalLoadSet(self.clock, load))

    def failed(self, instance_id: str, reason: LossReason = LossReason.REFUSED) -> None:
        """Report a request to a peer that failed."""
        self.handle(PeerRequestFailed(self.clock, instance_id, reason))

    def leave(self, linger_s: float = 0.5) -> None:
        """Announce the end, and terminate a moment later."""
        self.handle(Leaving(self.clock))
        self.scheduler.after(linger_s, self.terminate)

    def terminate(self) -> None:
        """Terminate the instance: nothing answers there any more."""
        self.is_up = False

    def crash(self) -> None:
        """End the agent's process; its host refuses connections."""
        self.listens = False

    def freeze(self) -> None:
        """Stop the agent's process, as SIGSTOP does: its sockets stay open, and buffer what arrives."""
        self.is_frozen = True

    def resume(self) -> None:
        """Continue after a freeze, with all that the socket buffered."""
        self.is_frozen = False
        held, self._held_back, self._held_bytes = self._held_back, deque(), 0
        for data in held:
            self.on_datagram(data)
        self._due = float("inf")
        self._wait()

    # the shell's part

    def handle(self, event: Event) -> None:
        """Handle an event and carry out its effects; where the agent is not running, the event is lost."""
        if not self.is_running:
            return
        for effect in self._handle(event):
            if type(effect) is Send:
                self.network.send(self, effect.to, effect.data)
            elif type(effect) is SendSync:
                self._send_sync(effect)
            elif type(effect) is MemberChanged:
                self._watch(self, effect)
        self._wait()

    def _handle(self, event: Event) -> tuple[Effect, ...]:
        if self.recording is not None:
            self.recording.append(event)
        return self.membership.handle(event)

    def _wait(self) -> None:
        due = max(self.scheduler.now, self.membership.next_deadline() - self.clock_offset_s)
        if due < self._due:
            self._due = due
            self.scheduler.at(due, self._tick, due)

    def _tick(self, due: float) -> None:
        if due != self._due:
            return  # an earlier one was put down since
        self._due = float("inf")
        if self.is_running:
            self.handle(Tick(self.clock))

    def on_datagram(self, data: bytes) -> None:
        """Receive a datagram; a frozen process's socket buffers it, up to the size of Linux's buffer."""
        if not self.is_frozen:
            self.handle(Received(self.clock, data))
        elif self._held_bytes + len(data) <= _SOCKET_BUFFER_BYTES:
            self._held_back.append(data)
            self._held_bytes += len(data)

    def _send_sync(self, asked: SendSync) -> None:
        reach, host = self.network.reach(self, asked.to)
        delay_s = self.network.stream_delay_s(opens=True)
        if reach is ConnectResult.OPEN and host is not None:
            self.network.count(len(asked.body))
            self.scheduler.after(delay_s, host.on_sync_request, self, asked.instance_id, asked.body)
        elif reach is ConnectResult.REFUSED:
            self.scheduler.after(delay_s, self.failed, asked.instance_id, LossReason.REFUSED)
        else:
            self.scheduler.after(STREAM_PATIENCE_S, self.failed, asked.instance_id, LossReason.SILENCE)

    def on_sync_request(self, asker: Host, instance_id: str, body: bytes) -> None:
        """Handle a sync request; a frozen process's kernel accepts the connection, and no response comes."""
        if not self.is_running:
            self.scheduler.after(STREAM_PATIENCE_S, asker.failed, instance_id, LossReason.SILENCE)
            return
        for effect in self._handle(SyncRequested(self.clock, body)):
            if type(effect) is SyncReply and effect.body is not None:
                self.network.count(len(effect.body))
                self.scheduler.after(self.network.stream_delay_s(opens=False), asker.on_sync_response, effect.body)
            elif type(effect) is Send:
                self.network.send(self, effect.to, effect.data)
            elif type(effect) is MemberChanged:
                self._watch(self, effect)
        self._wait()

    def on_sync_response(self, body: bytes) -> None:
        """Handle the response to a sync request of this host."""
        self.handle(SyncReplied(self.clock, body))
