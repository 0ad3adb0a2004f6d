"""Membership as a state machine: SWIM with suspicion and Lifeguard's local health. Events in, effects out.

    EC2's tags --NodesDiscovered--> join --ack--> sync tables --> probe two members a second, send and receive updates
    a member --silent, or PeerRequestFailed--> SUSPECT --refutes--> ALIVE
                                    SUSPECT --timeout--> DEAD --answers a retry, refutes--> ALIVE
    a member --sends Left--> LEFT, for good

Rules kept here:

* a member is suspected when neither it nor an indirect prober nor a stream to it answers a probe, or when a request to
  it was refused; it is dead when no refutation arrives in time; it comes back only under a higher incarnation;
* every probe of an accused member carries the accusation: a refutation is one round trip away;
* tags name nodes, they do not judge: a node that only tags name is probed, one that only gossip names is kept while it
  lives, one that left or died is not added again because of a tag that is still there;
* a message counts once, and only for the receiver's present boot id (wire); an unknown sender is added when it has
  answered a probe of this node; no rule needs a clock on which two nodes agree;
* a node that did not run (stopped, or its clock set) suspects no member for it;
* what a node does and sends each second does not grow with the fleet.

The owner calls `handle(Tick)` at `next_deadline()`, and passes in what its sockets receive. Not thread-safe.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from node_agent.contract.errors import InvalidTransition
from node_agent.core.common.cluster_keys import ClusterKeys
from node_agent.core.failure.loss import LossReason
from node_agent.core.membership.active_clock import ActiveClock
from node_agent.core.membership.broadcast_queue import BroadcastQueue, LoadQueue, UsageQueue
from node_agent.core.membership.change_reason import Cause
from node_agent.core.membership.config import GossipConfig
from node_agent.core.membership.events import (
    Effect,
    Event,
    Leaving,
    LocalKeyUsageSet,
    LocalLoadSet,
    LocalRefusalAdded,
    LocalStateSet,
    MemberChanged,
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
from node_agent.core.membership.gossip_schedule import GossipSchedule
from node_agent.core.membership.inbound import MessageReceiver
from node_agent.core.membership.join_candidates import JoinCandidates
from node_agent.core.membership.key_usage_gossip import KeyUsageGossip
from node_agent.core.membership.local_health import LocalHealth
from node_agent.core.membership.member_state import MemberState, pending_accusation
from node_agent.core.membership.member_table import MAX_NODES, Member, MemberTable, Rng, View
from node_agent.core.membership.message_keys import ClusterMessageKeys, MessageKeys
from node_agent.core.membership.outbound import LocalNode, MessageEncoder
from node_agent.core.membership.probe_schedule import MAX_JOIN_PROBES, ProbeSchedule
from node_agent.core.membership.prober import Prober
from node_agent.core.membership.refusals import RefusalBroadcasts
from node_agent.core.membership.sync_schedule import SyncSchedule
from node_agent.core.membership.sync_sessions import SyncSessions
from node_agent.core.membership.timers import Timers
from node_agent.core.membership.wire.messages import MessageMacs, read_header
from node_agent.core.membership.wire.updates import Intro, Refusal, write_dead
from node_agent.core.node.status import Liveness, NodeStatus
from node_agent.core.node.vouched_nodes import VouchedNodes


class Membership:
    """The membership of one node.

    Args:
        status: of this node at first.
        boot_id: BOOT_ID_BYTES random bytes.
        key: the keys of messages; or a fixed one of the cluster's, for all of them.
        at: now.
        rng: uniform in [0, 1) at every call.
        max_nodes: the bound on members.
        table: the table of a simulation that has one of its own.
        vouched: the record of which nodes EC2 vouches for, updated here; None where every member counts.
    """

    def __init__(
        self,
        status: NodeStatus,
        boot_id: bytes,
        key: bytes | MessageKeys,
        at: float,
        rng: Rng,
        *,
        config: GossipConfig | None = None,
        max_nodes: int = MAX_NODES,
        table: MemberTable | None = None,
        vouched: VouchedNodes | None = None,
    ) -> None:
        self.config = config = config or GossipConfig()
        self._rng = rng
        self._clock = clock = ActiveClock(at)
        self._timers = timers = Timers()
        self._health = LocalHealth()
        self._broadcasts = BroadcastQueue()
        self._loads = LoadQueue(max_nodes)
        self._usages = usages = UsageQueue(max_nodes)
        macs = MessageMacs()
        keys = key if not isinstance(key, bytes) else ClusterMessageKeys(ClusterKeys(key))
        self._local = LocalNode(status, boot_id, self._broadcasts)
        self._vouched = vouched
        self._table = table or MemberTable(
            status.instance_id, rng, max_nodes, vouched.vouches_for if vouched is not None else lambda status: True
        )
        self._encoder = MessageEncoder(self._local, self._table, keys, macs, self._broadcasts, self._loads, usages)
        if vouched is not None:
            self._table.is_shut_out = vouched.is_shut_out
        self._candidates = JoinCandidates(max_nodes)
        self._effects: list[Effect] = []
        self._gossip_now = False
        self._discovery_done = False
        self._refusals = RefusalBroadcasts(
            self._table, self._broadcasts, timers, config, clock, rng, self._effects.append
        )  # fmt: skip
        self._key_usage = KeyUsageGossip(self._local, self._table, usages, self._effects.append)
        self._member_state = MemberState(
            self._local, self._table, self._broadcasts, self._loads, timers, self._health, clock,
            self._effects.append, self._on_suspect, self._on_stale_intro, self._refusals.add,
            self._key_usage.receive,
        )  # fmt: skip
        self._prober = Prober(
            self._local, self._table, self._encoder, timers, self._health, config, clock,
            self._send, self._on_no_ack, self._probe_over_stream,
        )  # fmt: skip
        self._sync_sessions = SyncSessions(
            self._local, self._table, self._encoder, self._member_state, clock,
            self._prober.next_number, self._send_sync,
        )  # fmt: skip
        self._receiver = MessageReceiver(
            self._local, self._table, keys, macs, self._encoder, self._member_state, self._prober, self._sync_sessions,
            self._send,
        )  # fmt: skip
        self._sync = SyncSchedule(self._table, self._sync_sessions, timers, config, clock, rng)
        self._gossip = GossipSchedule(
            self._local, self._table, self._encoder, self._broadcasts, self._loads, usages, self._receiver,
            timers, config, clock, self._send,
        )  # fmt: skip
        self._probes = ProbeSchedule(
            self._local, self._table, self._candidates, self._prober, self._sync,
            timers, self._health, config, clock, rng,
        )  # fmt: skip
        self._handlers = self._event_handlers()
        self._start()

    def _event_handlers(self) -> dict[type, Callable[[Any], None]]:
        """Return the handler of each event."""
        return {
            Tick: lambda _: self._timers.fire(self._clock.now),
            Received: lambda event: self._receiver.on_datagram(event.data),
            LocalLoadSet: self._set_load,
            NodesDiscovered: self._on_discovered,
            PeerRequestFailed: self._on_request_failed,
            LocalStateSet: self._set_state,
            SyncRequested: lambda event: self._effects.append(SyncReply(self._receiver.on_sync_request(event.body))),
            SyncReplied: lambda event: self._receiver.on_sync_response(event.body),
            LocalRefusalAdded: self._refuse,
            LocalKeyUsageSet: lambda event: self._key_usage.send(event.packed),
            Leaving: self._on_leaving,
        }

    def _start(self) -> None:
        """Schedule the first run of all periodic work, each at a random time within its period."""
        for period_s, run in (
            (self.config.probe_interval_s, self._probes.probe_next),
            (self.config.gossip_interval_s, self._gossip.run),
            (self.config.probe_interval_s, self._probes.probe_watched),
            (self.config.sync_after_change_s, self._sync.run),
            (self.config.retry_dead_interval_s, self._probes.retry_dead),
        ):
            self._timers.schedule(self._rng() * period_s, run)

    def add_member(self, boot_id: bytes, status: NodeStatus) -> None:
        """Add a member without a probe: for a simulation of a fleet whose nodes have long joined."""
        self._table.add(boot_id, status, self._clock.now)

    @property
    def status(self) -> NodeStatus:
        """This node's status."""
        return self._local.status

    @property
    def boot_id(self) -> bytes:
        """This node's boot id."""
        return self._local.boot_id

    @property
    def view(self) -> View:
        """The other nodes; the same value until something changes."""
        return self._table.view

    @property
    def members(self) -> Mapping[str, Member]:
        """Members by instance id, read-only; a member's `load` is the newest that was received."""
        return self._table.by_id

    def sender_of(self, message: bytes) -> str | None:
        """Return the instance id of the member that an authentic message is from; None where it is no member's."""
        member = self._table.by_boot_id.get(read_header(message).sender)
        return None if member is None else member.status.instance_id

    def name_at(self, address: str) -> tuple[str, bytes | None] | None:
        """Return the instance id and the boot id of the member at a peer API's address (host:port).

        None where no member is there; without a boot id where only EC2's tags name a node there.
        """
        member = self._table.by_address.get(address)
        if member is not None:
            return member.status.instance_id, member.boot_id
        tagged = next((name for name, at in self._candidates.not_joined(self._table) if at == address), None)
        return None if tagged is None else (tagged, None)

    @property
    def nodes(self) -> int:
        """The number of nodes, this one included."""
        return self._table.nodes

    @property
    def not_joined(self) -> list[tuple[str, str]]:
        """(instance id, host:port of the peer API) of nodes that tags name and that have not joined."""
        return self._candidates.not_joined(self._table)

    @property
    def discovery_done(self) -> bool:
        """True once the tags were read: only then a node that is not listed does not exist."""
        return self._discovery_done

    @property
    def rejected(self) -> Counter[str]:
        """How many messages were dropped, by reason."""
        return self._receiver.rejected

    @property
    def stats(self) -> dict[str, int]:
        """Counts for metrics and tests."""
        return {
            "present": len(self._table.present),
            "dead": len(self._table.dead),
            "unvouched": len(self._table.view.unvouched),
            "health": self._health.score,
            "refutations": self._member_state.refutations,
            "updates": len(self._broadcasts),
            "loads": len(self._loads),
            "usages": len(self._usages),
            "timers": len(self._timers),
            "probes": len(self._prober),
            "join_candidates": len(self._candidates),
            "refusals": len(self._refusals),
            "tombstones": len(self._table.tombstones),
            "sent": self._encoder.sent,
        }

    def next_deadline(self) -> float:
        """Return when the next Tick is due, on the owner's clock."""
        return self._clock.to_external(self._timers.next_due)

    def handle(self, event: Event) -> tuple[Effect, ...]:
        """Handle one event; return its effects, in the order in which to perform them. Raises InvalidTransition."""
        pause_s = self._clock.advance(event.at, self._timers.next_due)
        if pause_s:
            self._on_pause()
        handler = self._handlers.get(type(event))
        if handler is None:
            raise InvalidTransition(f"unknown event {event}")
        handler(event)
        if self._gossip_now or self._member_state.refutation_pending:
            self._gossip_now = self._member_state.refutation_pending = False
            self._gossip.send(self.config.fanout)
        if self._member_state.sync_needed:
            self._member_state.sync_needed = False
            self._sync.fetch_missing()
        effects = tuple(self._effects)
        self._effects.clear()
        return effects

    def _on_pause(self) -> None:
        """Drop the probes that were pending during a pause, and sync what was missed."""
        self._prober.cancel_all()
        self._health.increase()
        self._sync.start()

    def _send(self, to: str, data: bytes) -> None:
        self._effects.append(Send(to, data))

    def _send_sync(self, member: Member, body: bytes) -> None:
        self._effects.append(SendSync(member.status.instance_id, member.status.peer_address, body))

    # events

    def _on_suspect(self, member: Member) -> None:
        """Send a new suspicion to its member; where another node began it, perhaps probe the member."""
        suspicion = member.suspicion
        is_mine = suspicion is not None and self._local.boot_id in suspicion.suspectors
        if is_mine:
            self._prober.join_probe(
                member.status.peer_address, member.boot_id, pending_accusation(member, self._local.boot_id)
            )
        elif self._rng() * self._table.nodes < self.config.extra_probes:
            self._prober.probe(member)

    def _on_stale_intro(self, intro: Intro, newest: int) -> None:
        """Send the incarnation to exceed to an older boot id, or to a newer one whose clock was set back."""
        accusation = write_dead(intro.boot_id, newest, self._local.boot_id)
        self._prober.join_probe(intro.status.peer_address, intro.boot_id, accusation)

    def _on_no_ack(self, member: Member) -> None:
        self._member_state.suspect(member, frozenset((self._local.boot_id,)), Cause.SILENT)

    def _probe_over_stream(self, member: Member, number: int) -> None:
        self._sync_sessions.start(member, number)

    def _refuse(self, event: LocalRefusalAdded) -> None:
        self._refusals.add(Refusal(event.content, round(event.seconds)))
        self._gossip_now = True

    def _on_request_failed(self, event: PeerRequestFailed) -> None:
        member = self._table.by_id.get(event.instance_id)
        if member is None or not member.liveness.is_present:
            return
        if event.reason is LossReason.REFUSED:
            self._member_state.suspect(member, frozenset((self._local.boot_id,)), Cause.REFUSED)
        else:
            self._prober.probe(member)  # the failure may be the request's own

    def _set_load(self, event: LocalLoadSet) -> None:
        self._local.load = event.load

    def _set_state(self, event: LocalStateSet) -> None:
        self._gossip_now = self._local.set_state(event.state, event.continuation_methods, event.deadline)

    def _on_discovered(self, tagged: NodesDiscovered) -> None:
        self._discovery_done = True
        table, now = self._table, self._clock.now
        nodes = tuple(tagged.nodes)
        if self._vouched is not None:
            self._vouched.update(nodes, is_complete=tagged.is_complete)
            for member in table.vouch_again():
                self._on_vouched(member)
            nodes = tuple(node for node in nodes if not node.is_shut_out)
        tagged_ids = {node.instance_id for node in nodes}
        for member in list(table.by_id.values()):
            member.tagged = member.status.instance_id in tagged_ids
            if table.is_shut_out(member.status.instance_id):
                self._member_state.shut_out(member)
            if (
                member.liveness is Liveness.DEAD
                and not member.tagged
                and now - member.since > self.config.dead_retention_s
            ):
                table.forget(member)
        self._candidates.replace(nodes, table, now)
        if not len(table.present):
            self._probes.probe_candidates(MAX_JOIN_PROBES)

    def _on_vouched(self, member: Member) -> None:
        """Report a member for which EC2 vouches now, and sync with it: what it had sent of others was dropped."""
        if member.liveness.is_present:
            self._effects.append(MemberChanged(member.status, member.liveness, member.liveness, Cause.VOUCHED))
            self._sync_sessions.start(member)

    def _on_leaving(self, _: Leaving) -> None:
        self._local.leave()
        self._gossip.send(self.config.leave_fanout)
