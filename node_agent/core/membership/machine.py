"""Who is in the fleet, as a machine: SWIM with suspicion and Lifeguard's local health. Events in, effects out.

    EC2's tags --Tagged--> hello --ack--> compare tables --> probe one member a second, tell rumours, hear rumours
    a member --silent, or Failed--> SUSPECT --refutes--> ALIVE
                                    SUSPECT --time is up--> DEAD --answers a retry, refutes--> ALIVE
    a member --says so--> LEFT, for good

Rules kept here:

* a member is suspected when neither it nor a helper nor a stream to it answers a probe, or when a request to it was
  refused; it is dead when nobody heard it refute; it comes back only under a higher incarnation;
* who is accused is told, by every probe: a refutation is one round trip away;
* tags name nodes, they do not judge: a node that only tags know is greeted, one that only gossip knows is kept while
  it lives, one that left or died is not brought back by a tag that is still there;
* a message counts once, and only in the receiver's present life (wire); a stranger is believed when it has
  answered a question of this node; nothing here reads a clock that two nodes would have to agree on;
* a node that was not there (stopped, or its clock set) blames nobody for it;
* what a node does and sends each second does not grow with the fleet.

The owner calls `handle(Tick)` at `next_deadline()`, and hands in what its sockets get. Not thread-safe.
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
    LocalStateSet,
    NodesDiscovered,
    PeerRequestFailed,
    Received,
    Refuse,
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
from node_agent.core.membership.member_state import MemberState, accusation_of
from node_agent.core.membership.member_table import MAX_NODES, Chance, Member, MemberTable, View
from node_agent.core.membership.outbound import LocalNode, MessageEncoder
from node_agent.core.membership.prober import Prober
from node_agent.core.membership.refusals import AGAIN_EVERY_S, Refusals
from node_agent.core.membership.sync_sessions import SyncSessions
from node_agent.core.membership.timers import Timers
from node_agent.core.membership.wire import Intro, Kind, MessageMac, Refusal, write_dead, write_refusal
from node_agent.core.node.status import Liveness, NodeStatus

_GREETED_AT_ONCE = 3
_DOUBTS_AT_ONCE = 16
_SHARP = 4
"""A change of that many requests in flight, or by half, is told before its turn."""

_SHARP_TIMES = 8
_CATCH_UP_EVERY_S = 2.0


class Membership:
    """status: what this node says of itself at first; life: LIFE_BYTES random bytes; key: the cluster's; at: now.

    chance: uniform in [0, 1) at every call; max_nodes: members that are kept at most; roster: the
    table, where a simulation has one of its own.
    """

    def __init__(
        self,
        status: NodeStatus,
        life: bytes,
        key: bytes,
        at: float,
        chance: Chance,
        *,
        tempo: GossipConfig | None = None,
        max_nodes: int = MAX_NODES,
        roster: MemberTable | None = None,
    ) -> None:
        self.tempo = tempo or GossipConfig()
        self._chance = chance
        self._time = ActiveClock(at)
        self._timers = Timers()
        self._health = LocalHealth()
        self._rumours = BroadcastQueue()
        self._loads = LoadQueue(max_nodes)
        seal = MessageMac(key)
        self._me = LocalNode(status, life, self._rumours)
        self._post = MessageEncoder(self._me, seal, self._rumours, self._loads)
        self._roster = roster or MemberTable(status.instance_id, chance, max_nodes)
        self._named = JoinCandidates(max_nodes)
        self._refusals = Refusals()
        self._effects: list[Effect] = []
        self._beliefs = MemberState(
            self._me, self._roster, self._rumours, self._loads, self._timers, self._health,
            self._time, self._effects.append, self._on_suspect, self._on_outbid, self._on_refusal,
        )  # fmt: skip
        self._prober = Prober(
            self._me, self._roster, self._post, self._timers, self._health, self.tempo,
            self._time, self._send, self._on_silence, self._ask_over_stream,
        )  # fmt: skip
        self._comparisons = SyncSessions(
            self._me, self._roster, self._post, self._beliefs, self._time, self._prober.next_number, self._ask
        )
        self._ear = MessageReceiver(
            self._me, self._roster, seal, self._post, self._beliefs, self._prober, self._comparisons, self._send
        )
        self._load_told = self._me.load
        self._load_due = 0.0
        self._in_haste = False
        self._has_looked = False
        self._compare_at = 0.0
        self._compared_at = 0.0
        self._compared_version = 0
        self._handlers: dict[type, Callable[[Any], None]] = {
            Tick: lambda _: self._timers.fire(self._time.now),
            Received: lambda event: self._ear.datagram(event.data),
            LocalLoadSet: self._measure,
            NodesDiscovered: self._look_at,
            PeerRequestFailed: self._blame,
            LocalStateSet: self._announce,
            SyncRequested: lambda event: self._effects.append(SyncReply(self._ear.question(event.body))),
            SyncReplied: lambda event: self._ear.answer(event.body),
            Refuse: self._refuse,
            Leaving: self._leave,
        }
        self._timers.set(chance() * self.tempo.probe_every_s, self._probe)
        self._timers.set(chance() * self.tempo.gossip_every_s, self._gossip)
        self._timers.set(chance() * self.tempo.probe_every_s, self._watch)
        self._timers.set(chance() * self.tempo.compare_after_news_s, self._compare)
        self._timers.set(chance() * self.tempo.retry_dead_every_s, self._retry_dead)

    def meet(self, life: bytes, status: NodeStatus) -> None:
        """Know a node from the start: for a simulation of a fleet whose nodes have long met."""
        self._roster.admit(life, status, self._time.now)

    # what others read

    @property
    def status(self) -> NodeStatus:
        """What this node says of itself now."""
        return self._me.status

    @property
    def view(self) -> View:
        """The others; the same value until something changes."""
        return self._roster.view

    @property
    def members(self) -> Mapping[str, Member]:
        """By instance id, to be read only: a member's `load` is the newest that was heard."""
        return self._roster.by_id

    @property
    def nodes(self) -> int:
        """How many nodes there are, this one included."""
        return self._roster.nodes

    @property
    def unmet(self) -> list[tuple[str, str]]:
        """(instance id, host:port of the peer door) of nodes that tags name and that were not met yet."""
        return self._named.unmet(self._roster)

    @property
    def has_looked(self) -> bool:
        """Whether the tags were read: only then it may be said of a node that there is none."""
        return self._has_looked

    @property
    def refused(self) -> Counter[str]:
        """Messages that were not taken, by the reason."""
        return self._ear.refused

    @property
    def figures(self) -> dict[str, int]:
        """For metrics."""
        return {
            "present": len(self._roster.present),
            "dead": len(self._roster.dead),
            "health": self._health.score,
            "refutations": self._beliefs.refutations,
            "rumours": len(self._rumours),
            "loads": len(self._loads),
            "timers": len(self._timers),
            "probes": len(self._prober),
            "named": len(self._named),
            "refusals": len(self._refusals),
            "tombstones": len(self._roster.tombstones),
            "sent": self._post.sent,
        }

    # the machine

    def next_deadline(self) -> float:
        """When the next Tick is due, by the owner's clock."""
        return self._time.outside(self._timers.due)

    def handle(self, event: Event) -> tuple[Effect, ...]:
        """The effects of one event, in the order in which they are to happen."""
        pause_s = self._time.advance(event.at, self._timers.due)
        if pause_s:
            self._wake_up()
        handler = self._handlers.get(type(event))
        if handler is None:
            raise InvalidTransition(f"unknown event {event}")
        handler(event)
        if self._in_haste or self._beliefs.has_to_refute:
            self._hurry()
        if self._beliefs.knows_too_little:
            self._catch_up()
        effects = tuple(self._effects)
        self._effects.clear()
        return effects

    def _wake_up(self) -> None:
        """This node was not there: it asks anew, and what it missed as well."""
        self._prober.forget_all()
        self._health.worse()
        self._compare_soon()

    def _hurry(self) -> None:
        self._in_haste = self._beliefs.has_to_refute = False
        self._tell(self.tempo.fanout)

    def _catch_up(self) -> None:
        self._beliefs.knows_too_little = False
        if self._time.now >= self._compare_at:
            self._compare_at = self._time.now + _CATCH_UP_EVERY_S
            self._compare_soon()

    def _send(self, to: str, data: bytes) -> None:
        self._effects.append(Send(to, data))

    def _ask(self, member: Member, body: bytes) -> None:
        self._effects.append(SendSync(member.status.instance_id, member.status.peer_address, body))

    def _tell(self, count: int) -> None:
        for member in self._roster.present.some(count):
            self._send(member.status.peer_address, self._post.datagram(Kind.GOSSIP, member.life, self._roster.nodes))

    # what it does by itself

    def _probe(self) -> None:
        self._timers.set(self._time.now + self.tempo.probe_every_s * self._health.patience, self._probe)
        member = self._roster.present.next()
        if member is not None:
            self._prober.check(member)
        count = 1 if member is not None else _GREETED_AT_ONCE
        for address in self._named.due(count, self._roster, self._time.now):
            self._prober.greet(address)
        if member is not None and not self._comparisons.finished and not len(self._comparisons):
            self._compare_soon()

    def _watch(self) -> None:
        self._timers.set(self._time.now + self.tempo.probe_every_s * self._health.patience, self._watch)
        member = self._roster.next_alive(self._me.life)
        if member is not None:
            self._prober.check(member)

    def _gossip(self) -> None:
        now = self._time.now
        self._timers.set(now + self.tempo.gossip_every_s, self._gossip)
        self._tell_load(now)
        if len(self._rumours):
            self._tell(self.tempo.fanout)
        elif len(self._loads):
            self._tell(1)
        for life in list(self._ear.doubts)[:_DOUBTS_AT_ONCE]:
            accusation = self._ear.doubts.pop(life)
            member = self._roster.by_life.get(life)
            if member is not None and member.liveness is Liveness.ALIVE:
                self._prober.check(member, accusation)

    def _tell_load(self, now: float) -> None:
        """Have the load told where it changed and its turn has come: the more nodes, the more seldom."""
        load, told = self._me.load, self._load_told
        if load == told or self._me.has_left:
            return
        every_s = max(self.tempo.least_load_every_s, self._roster.nodes / self.tempo.loads_per_s)
        change = abs(load.in_flight - told.in_flight)
        sharp = change > max(_SHARP, told.in_flight // 2)
        if now < self._load_due - (every_s - every_s / _SHARP_TIMES if sharp else 0.0):
            return
        self._load_told = load
        self._load_due = now + every_s
        self._loads.tell(self._me.life, self._me.next_load())

    def _compare(self) -> None:
        tempo, now = self.tempo, self._time.now
        self._timers.set(now + tempo.compare_after_news_s * (0.8 + 0.4 * self._chance()), self._compare)
        has_news = self._roster.version != self._compared_version
        if has_news or now - self._compared_at >= tempo.compare_every_s:
            self._compared_at, self._compared_version = now, self._roster.version
            self._compare_soon()

    def _compare_soon(self) -> None:
        for member in self._roster.present.some(1):
            self._comparisons.begin(member)

    def _retry_dead(self) -> None:
        every_s = self.tempo.retry_dead_every_s * (0.8 + 0.4 * self._chance())
        self._timers.set(self._time.now + every_s, self._retry_dead)
        dead = self._roster.dead
        if not len(dead) or self._chance() * self._roster.nodes > len(dead):
            return
        for member in dead.some(1):
            self._prober.greet(member.status.peer_address, accusation=accusation_of(member, self._me.life))

    # what happens to it

    def _on_suspect(self, member: Member) -> None:
        """Somebody suspects a member: have it hear of that, and perhaps see for ourselves."""
        suspicion = member.suspicion
        is_mine = suspicion is not None and self._me.life in suspicion.accusers
        if is_mine:
            self._prober.greet(member.status.peer_address, member.life, accusation_of(member, self._me.life))
        elif self._chance() * self._roster.nodes < self.tempo.opinions:
            self._prober.check(member)

    def _on_outbid(self, intro: Intro, newest: int) -> None:
        """An older life, or a newer one whose clock was set back: if it is there, it hears what it has to exceed."""
        accusation = write_dead(intro.life, newest, self._me.life)
        self._prober.greet(intro.status.peer_address, intro.life, accusation)

    def _on_silence(self, member: Member) -> None:
        self._beliefs.suspect(member, frozenset((self._me.life,)), "silent")

    def _ask_over_stream(self, member: Member, number: int) -> None:
        self._comparisons.begin(member, number)

    def _refuse(self, refuse: Refuse) -> None:
        self._on_refusal(Refusal(refuse.content, round(refuse.seconds)))
        self._in_haste = True

    def _on_refusal(self, refusal: Refusal) -> None:
        """Pass it on and have the owner know, where it is news."""
        is_first = not len(self._refusals)
        if not self._refusals.take(refusal.content, refusal.left_s, self._time.now):
            return
        self._rumours.tell(refusal.content, write_refusal(*refusal))
        self._effects.append(Refused(*refusal))
        if is_first:
            self._timers.set(self._time.now + AGAIN_EVERY_S, self._tell_refusals)

    def _tell_refusals(self) -> None:
        """Once more, for nodes that came meanwhile: a few of the fleet's nodes each time, while any of them lasts."""
        told = self._refusals.to_tell(self._time.now, self._chance())
        if self._chance() * self._roster.nodes < self.tempo.opinions:
            for content, left_s in told:
                self._rumours.tell(content, write_refusal(content, left_s))
        if len(self._refusals):
            self._timers.set(self._time.now + AGAIN_EVERY_S, self._tell_refusals)

    def _blame(self, failed: PeerRequestFailed) -> None:
        member = self._roster.by_id.get(failed.instance_id)
        if member is None or not member.liveness.is_present:
            return
        if failed.why == REFUSED:
            self._beliefs.suspect(member, frozenset((self._me.life,)), REFUSED)
        else:
            self._prober.check(member)

    def _measure(self, measured: LocalLoadSet) -> None:
        self._me.load = measured.load

    def _announce(self, announced: LocalStateSet) -> None:
        self._in_haste = self._me.say(announced.state, announced.ways)

    def _look_at(self, tagged: NodesDiscovered) -> None:
        self._has_looked = True
        roster, now = self._roster, self._time.now
        nodes = tuple(tagged.nodes)
        named = {node.instance_id for node in nodes}
        for member in list(roster.by_id.values()):
            member.tagged = member.status.instance_id in named
            if member.liveness is Liveness.DEAD and not member.tagged and now - member.since > self.tempo.dead_kept_s:
                roster.forget(member)
        self._named.renew(nodes, roster, now)
        if not len(roster.present):
            for address in self._named.due(_GREETED_AT_ONCE, roster, now):
                self._prober.greet(address)

    def _leave(self, _: Leaving) -> None:
        self._me.leave()
        self._tell(self.tempo.leaving_fanout)
