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
from node_agent.core.membership.active_clock import ActiveClock
from node_agent.core.membership.broadcast_queue import BroadcastQueue, LoadQueue
from node_agent.core.membership.config import GossipConfig
from node_agent.core.membership.events import (
    REFUSED,
    Effect,
    Event,
    Leaving,
    LocalLoadSet,
    LocalRefusalAdded,
    LocalStateSet,
    NodesDiscovered,
    PeerRequestFailed,
    Received,
    Refused,
    Send,
    SendSync,
    SyncReplied,
    SyncReply,
    SyncRequested,
    Tick,
)
from node_agent.core.membership.inbound import MessageReceiver
from node_agent.core.membership.join_candidates import JoinCandidates
from node_agent.core.membership.local_health import LocalHealth
from node_agent.core.membership.member_state import MemberState, pending_accusation
from node_agent.core.membership.member_table import MAX_NODES, Member, MemberTable, Rng, View
from node_agent.core.membership.outbound import LocalNode, MessageEncoder
from node_agent.core.membership.prober import Prober
from node_agent.core.membership.refusals import REBROADCAST_INTERVAL_S, Refusals
from node_agent.core.membership.sync_sessions import SyncSessions
from node_agent.core.membership.timers import Timers
from node_agent.core.membership.wire.messages import MessageKind, MessageMac
from node_agent.core.membership.wire.updates import Intro, Refusal, write_dead, write_refusal
from node_agent.core.node.status import Liveness, NodeStatus

_MAX_JOIN_PROBES = 3
_MAX_ACCUSATIONS = 16
_SHARP_CHANGE = 4
"""A load that changed by that many requests in flight, or by half, is sent before its turn."""

_SHARP_SPEEDUP = 8
_MIN_SYNC_INTERVAL_S = 2.0


class Membership:
    """The membership of one node.

    Args:
        status: of this node at first.
        boot_id: BOOT_ID_BYTES random bytes.
        key: the cluster's.
        at: now.
        rng: uniform in [0, 1) at every call.
        max_nodes: the bound on members.
        table: the table of a simulation that has one of its own.
    """

    def __init__(
        self,
        status: NodeStatus,
        boot_id: bytes,
        key: bytes,
        at: float,
        rng: Rng,
        *,
        config: GossipConfig | None = None,
        max_nodes: int = MAX_NODES,
        table: MemberTable | None = None,
    ) -> None:
        self.config = config or GossipConfig()
        self._rng = rng
        self._clock = ActiveClock(at)
        self._timers = Timers()
        self._health = LocalHealth()
        self._broadcasts = BroadcastQueue()
        self._loads = LoadQueue(max_nodes)
        mac = MessageMac(key)
        self._local = LocalNode(status, boot_id, self._broadcasts)
        self._encoder = MessageEncoder(self._local, mac, self._broadcasts, self._loads)
        self._table = table or MemberTable(status.instance_id, rng, max_nodes)
        self._candidates = JoinCandidates(max_nodes)
        self._refusals = Refusals()
        self._effects: list[Effect] = []
        self._member_state = MemberState(
            self._local, self._table, self._broadcasts, self._loads, self._timers, self._health,
            self._clock, self._effects.append, self._on_suspect, self._on_stale_intro, self._on_refusal,
        )  # fmt: skip
        self._prober = Prober(
            self._local, self._table, self._encoder, self._timers, self._health, self.config,
            self._clock, self._send, self._on_no_ack, self._probe_over_stream,
        )  # fmt: skip
        self._sync_sessions = SyncSessions(
            self._local,
            self._table,
            self._encoder,
            self._member_state,
            self._clock,
            self._prober.next_number,
            self._send_sync,
        )
        self._receiver = MessageReceiver(
            self._local,
            self._table,
            mac,
            self._encoder,
            self._member_state,
            self._prober,
            self._sync_sessions,
            self._send,
        )
        self._sent_load = self._local.load
        self._next_load_at = 0.0
        self._gossip_now = False
        self._discovery_done = False
        self._next_sync_at = 0.0
        self._last_sync_at = 0.0
        self._last_sync_version = 0
        self._handlers: dict[type, Callable[[Any], None]] = {
            Tick: lambda _: self._timers.fire(self._clock.now),
            Received: lambda event: self._receiver.on_datagram(event.data),
            LocalLoadSet: self._set_load,
            NodesDiscovered: self._on_discovered,
            PeerRequestFailed: self._on_request_failed,
            LocalStateSet: self._set_state,
            SyncRequested: lambda event: self._effects.append(SyncReply(self._receiver.on_sync_request(event.body))),
            SyncReplied: lambda event: self._receiver.on_sync_response(event.body),
            LocalRefusalAdded: self._refuse,
            Leaving: self._on_leaving,
        }
        self._timers.schedule(rng() * self.config.probe_interval_s, self._probe)
        self._timers.schedule(rng() * self.config.gossip_interval_s, self._gossip)
        self._timers.schedule(rng() * self.config.probe_interval_s, self._watch)
        self._timers.schedule(rng() * self.config.sync_after_change_s, self._maybe_sync)
        self._timers.schedule(rng() * self.config.retry_dead_interval_s, self._retry_dead)

    def add_member(self, boot_id: bytes, status: NodeStatus) -> None:
        """Add a member without a probe: for a simulation of a fleet whose nodes have long joined."""
        self._table.add(boot_id, status, self._clock.now)

    @property
    def status(self) -> NodeStatus:
        """This node's status."""
        return self._local.status

    @property
    def view(self) -> View:
        """The other nodes; the same value until something changes."""
        return self._table.view

    @property
    def members(self) -> Mapping[str, Member]:
        """Members by instance id, read-only; a member's `load` is the newest that was received."""
        return self._table.by_id

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
            "health": self._health.score,
            "refutations": self._member_state.refutations,
            "updates": len(self._broadcasts),
            "loads": len(self._loads),
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
            self._flush_gossip()
        if self._member_state.sync_needed:
            self._sync_missing()
        effects = tuple(self._effects)
        self._effects.clear()
        return effects

    def _on_pause(self) -> None:
        """Drop the probes that were pending during a pause, and sync what was missed."""
        self._prober.cancel_all()
        self._health.increase()
        self._start_sync()

    def _flush_gossip(self) -> None:
        self._gossip_now = self._member_state.refutation_pending = False
        self._gossip_to(self.config.fanout)

    def _sync_missing(self) -> None:
        self._member_state.sync_needed = False
        if self._clock.now >= self._next_sync_at:
            self._next_sync_at = self._clock.now + _MIN_SYNC_INTERVAL_S
            self._start_sync()

    def _send(self, to: str, data: bytes) -> None:
        self._effects.append(Send(to, data))

    def _send_sync(self, member: Member, body: bytes) -> None:
        self._effects.append(SendSync(member.status.instance_id, member.status.peer_address, body))

    def _gossip_to(self, count: int) -> None:
        for member in self._table.present.sample(count):
            self._send(
                member.status.peer_address,
                self._encoder.encode_datagram(MessageKind.GOSSIP, member.boot_id, self._table.nodes),
            )

    # periodic work

    def _probe(self) -> None:
        self._timers.schedule(
            self._clock.now + self.config.probe_interval_s * self._health.timeout_multiplier, self._probe
        )
        member = self._table.present.next()
        if member is not None:
            self._prober.probe(member)
        count = 1 if member is not None else _MAX_JOIN_PROBES
        for address in self._candidates.due(count, self._table, self._clock.now):
            self._prober.join_probe(address)
        if member is not None and not self._sync_sessions.completed and not len(self._sync_sessions):
            self._start_sync()

    def _watch(self) -> None:
        self._timers.schedule(
            self._clock.now + self.config.probe_interval_s * self._health.timeout_multiplier, self._watch
        )
        member = self._table.next_alive(self._local.boot_id)
        if member is not None:
            self._prober.probe(member)

    def _gossip(self) -> None:
        now = self._clock.now
        self._timers.schedule(now + self.config.gossip_interval_s, self._gossip)
        self._broadcast_load(now)
        if len(self._broadcasts):
            self._gossip_to(self.config.fanout)
        elif len(self._loads):
            self._gossip_to(1)
        for boot_id in list(self._receiver.accusations)[:_MAX_ACCUSATIONS]:
            accusation = self._receiver.accusations.pop(boot_id)
            member = self._table.by_boot_id.get(boot_id)
            if member is not None and member.liveness is Liveness.ALIVE:
                self._prober.probe(member, accusation)

    def _broadcast_load(self, now: float) -> None:
        """Queue the load if it changed and its turn has come: the larger the fleet, the more seldom."""
        load, sent = self._local.load, self._sent_load
        if load == sent or self._local.has_left:
            return
        every_s = max(self.config.min_load_interval_s, self._table.nodes / self.config.loads_per_s)
        change = abs(load.in_flight - sent.in_flight)
        sharp = change > max(_SHARP_CHANGE, sent.in_flight // 2)
        if now < self._next_load_at - (every_s - every_s / _SHARP_SPEEDUP if sharp else 0.0):
            return
        self._sent_load = load
        self._next_load_at = now + every_s
        self._loads.add(self._local.boot_id, self._local.write_next_load())

    def _maybe_sync(self) -> None:
        config, now = self.config, self._clock.now
        self._timers.schedule(now + config.sync_after_change_s * (0.8 + 0.4 * self._rng()), self._maybe_sync)
        has_news = self._table.version != self._last_sync_version
        if has_news or now - self._last_sync_at >= config.sync_interval_s:
            self._last_sync_at, self._last_sync_version = now, self._table.version
            self._start_sync()

    def _start_sync(self) -> None:
        for member in self._table.present.sample(1):
            self._sync_sessions.start(member)

    def _retry_dead(self) -> None:
        every_s = self.config.retry_dead_interval_s * (0.8 + 0.4 * self._rng())
        self._timers.schedule(self._clock.now + every_s, self._retry_dead)
        dead = self._table.dead
        if not len(dead) or self._rng() * self._table.nodes > len(dead):
            return
        for member in dead.sample(1):
            self._prober.join_probe(
                member.status.peer_address, accusation=pending_accusation(member, self._local.boot_id)
            )

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
        self._member_state.suspect(member, frozenset((self._local.boot_id,)), "silent")

    def _probe_over_stream(self, member: Member, number: int) -> None:
        self._sync_sessions.start(member, number)

    def _refuse(self, event: LocalRefusalAdded) -> None:
        self._on_refusal(Refusal(event.content, round(event.seconds)))
        self._gossip_now = True

    def _on_refusal(self, refusal: Refusal) -> None:
        """Queue a refusal and report it, where it is new."""
        is_first = not len(self._refusals)
        if not self._refusals.add(refusal.content, refusal.left_s, self._clock.now):
            return
        self._broadcasts.add(refusal.content, write_refusal(*refusal))
        self._effects.append(Refused(*refusal))
        if is_first:
            self._timers.schedule(self._clock.now + REBROADCAST_INTERVAL_S, self._rebroadcast_refusals)

    def _rebroadcast_refusals(self) -> None:
        """Queue refusals again for nodes that came meanwhile: on a few nodes each time, while any refusal lasts."""
        refusals = self._refusals.sample(self._clock.now, self._rng())
        if self._rng() * self._table.nodes < self.config.extra_probes:
            for content, left_s in refusals:
                self._broadcasts.add(content, write_refusal(content, left_s))
        if len(self._refusals):
            self._timers.schedule(self._clock.now + REBROADCAST_INTERVAL_S, self._rebroadcast_refusals)

    def _on_request_failed(self, event: PeerRequestFailed) -> None:
        member = self._table.by_id.get(event.instance_id)
        if member is None or not member.liveness.is_present:
            return
        if event.why == REFUSED:
            self._member_state.suspect(member, frozenset((self._local.boot_id,)), REFUSED)
        else:
            self._prober.probe(member)

    def _set_load(self, event: LocalLoadSet) -> None:
        self._local.load = event.load

    def _set_state(self, event: LocalStateSet) -> None:
        self._gossip_now = self._local.set_state(event.state, event.continuation_methods)

    def _on_discovered(self, tagged: NodesDiscovered) -> None:
        self._discovery_done = True
        table, now = self._table, self._clock.now
        nodes = tuple(tagged.nodes)
        tagged_ids = {node.instance_id for node in nodes}
        for member in list(table.by_id.values()):
            member.tagged = member.status.instance_id in tagged_ids
            if (
                member.liveness is Liveness.DEAD
                and not member.tagged
                and now - member.since > self.config.dead_retention_s
            ):
                table.forget(member)
        self._candidates.replace(nodes, table, now)
        if not len(table.present):
            for address in self._candidates.due(_MAX_JOIN_PROBES, table, now):
                self._prober.join_probe(address)

    def _on_leaving(self, _: Leaving) -> None:
        self._local.leave()
        self._gossip_to(self.config.leave_fanout)
