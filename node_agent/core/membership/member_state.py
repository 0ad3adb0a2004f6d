"""What a rumour changes: SWIM's order of precedence (section 4.2), and what this node answers to rumours of itself.

    Alive(i)    beats  Alive, Suspect, Dead of an incarnation below i
    Suspect(i)  beats  Alive of i and below, Suspect below i; confirms Suspect of i
    Dead(i)     beats  Alive and Suspect of i and below
    Left(i)     beats  everything of the same life, for good
    Intro(i)    is Alive(i), and a newer life of an instance where i is higher than anything known of the old one

What is believed is passed on; what is not is dropped. This node never believes anything bad of itself: it refutes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from node_agent.core.membership.active_clock import ActiveClock
from node_agent.core.membership.broadcast_queue import BroadcastQueue, LoadQueue
from node_agent.core.membership.events import MemberChanged
from node_agent.core.membership.local_health import LocalHealth
from node_agent.core.membership.member_table import Member, MemberTable
from node_agent.core.membership.outbound import LocalNode
from node_agent.core.membership.suspicion import Suspicion
from node_agent.core.membership.timers import ROUNDING_S, Timers
from node_agent.core.membership.wire import (
    LOAD_BYTES,
    Alive,
    Dead,
    Intro,
    Left,
    Loads,
    Refusal,
    Rumour,
    Suspect,
    load_of,
    read_loads,
    write_dead,
    write_intro,
    write_left,
    write_suspect,
)
from node_agent.core.node.status import Liveness, NodeStatus

LEFT_KEPT_S = 60.0
"""How long a node that left stays in the table, so that comparisons tell of it; then its tombstone says no."""


class MemberState:
    """changed: gets every change; suspected: gets every member that becomes suspect; refused: gets every refusal.

    outbid: gets every introduction of another life that claims less than what is known of its instance, and that.
    """

    def __init__(
        self,
        me: LocalNode,
        roster: MemberTable,
        rumours: BroadcastQueue,
        loads: LoadQueue,
        timers: Timers,
        health: LocalHealth,
        time: ActiveClock,
        changed: Callable[[MemberChanged], None],
        suspected: Callable[[Member], None],
        outbid: Callable[[Intro, int], None],
        refused: Callable[[Refusal], None] = lambda refusal: None,
    ) -> None:
        self._me = me
        self._roster = roster
        self._rumours = rumours
        self._loads = loads
        self._timers = timers
        self._health = health
        self._time = time
        self._changed = changed
        self._suspected = suspected
        self._outbid = outbid
        self._refused = refused
        self.refutations = 0
        self.has_to_refute = False
        """A refutation waits to be told: the owner tells it at once."""

        self.was_told_old_news = False
        """Somebody has not heard this node's last refutation: who hears the accusation tells it again."""

        self.knows_too_little = False
        """Somebody spoke of a life that was never introduced here: the owner compares tables with a peer."""

    def is_of_me(self, rumour: Rumour) -> bool:
        """Whether it speaks of this node's present life."""
        return not isinstance(rumour, Loads | Refusal) and rumour.life == self._me.life

    def take(self, rumour: Rumour) -> None:
        """Believe a rumour, or not."""
        match rumour:
            case Loads():
                self._take_loads(rumour)
            case Alive():
                self._take_alive(rumour)
            case Suspect():
                self._take_suspect(rumour)
            case Dead() | Left():
                self._take_end(rumour)
            case Intro():
                self.take_intro(rumour, "gossip")
            case Refusal():
                self._refused(rumour)

    def _take_loads(self, rumour: Loads) -> None:
        by_life, packed = self._roster.by_life, rumour.packed
        for number, read in enumerate(read_loads(packed)):
            member = by_life.get(read[0])
            if member is not None and read[1] > member.load_version:
                member.load, member.load_version = load_of(read), read[1]
                self._loads.tell(read[0], packed[number * LOAD_BYTES : (number + 1) * LOAD_BYTES])

    def take_intro(self, intro: Intro, why: str, *, below: int | None = None, tell: bool = True) -> Member | None:
        """Returns the member where this made one.

        below: numbers up to this one are used up (see Roster.admit); tell: whether it is passed on.
        """
        life, status = intro
        if status.instance_id == self._roster.own_id:
            if life != self._me.life and status.incarnation >= self._me.status.incarnation:
                self._refute(status.incarnation)  # an older life of this node, or another clock's
                self._me.introduce()
            return None
        known = self._roster.by_life.get(life)
        if known is not None:
            self._hear_alive(known, status, why)
            return None
        newest = self._roster.newest_incarnation(status.instance_id)
        if status.incarnation <= newest:
            self._outbid(intro, newest)
            return None
        before = self._roster.by_id.get(status.instance_id)
        member = self._roster.admit(life, status, self._time.now, below)
        if member is None:
            return None
        if before is not None:
            self._rumours.drop(before.life)
            self._loads.drop(before.life)
        if tell:
            self._rumours.tell(life, write_intro(life, status))
        self._changed(MemberChanged(status, before.liveness if before else None, Liveness.ALIVE, why))
        return member

    def _take_alive(self, rumour: Alive) -> None:
        if rumour.life == self._me.life:
            if rumour.incarnation > self._me.status.incarnation:
                self._refute(rumour.incarnation)
            return
        member = self._roster.by_life.get(rumour.life)
        if member is None:
            self.knows_too_little = True
        elif rumour.incarnation > member.incarnation:
            status = replace(
                member.status, state=rumour.state, continuation_methods=rumour.ways, incarnation=rumour.incarnation
            )
            self._hear_alive(member, status, "gossip")

    def _hear_alive(self, member: Member, status: NodeStatus, why: str) -> None:
        if status.incarnation <= member.incarnation or member.liveness is Liveness.LEFT:
            return
        before, state = member.liveness, member.status.state
        self._roster.update(member, status)
        if before is not Liveness.ALIVE:
            self._roster.hold(member, Liveness.ALIVE, self._time.now)
        self._rumours.tell_alive(member.life, status)
        if before is not Liveness.ALIVE or state is not status.state:
            self._changed(MemberChanged(status, before, Liveness.ALIVE, why))

    def _take_suspect(self, rumour: Suspect) -> None:
        if rumour.life == self._me.life:
            self._answer_accusation(rumour.incarnation)
            return
        member = self._roster.by_life.get(rumour.life)
        if member is None or rumour.incarnation < member.incarnation or not member.liveness.is_present:
            return
        if rumour.incarnation > member.incarnation:
            status = replace(
                member.status, state=rumour.state, continuation_methods=rumour.ways, incarnation=rumour.incarnation
            )
            self._roster.update(member, status)
            member.suspicion = None  # it was of an older incarnation
        self.suspect(member, rumour.accusers, "gossip")

    def suspect(self, member: Member, accusers: frozenset[bytes], why: str) -> None:
        """Hold a member for suspect in its present incarnation, or confirm that it is."""
        if not member.liveness.is_present or not self._roster.has(member):
            return
        suspicion = member.suspicion
        if suspicion is not None:
            if not suspicion.confirm(accusers):
                return
        else:
            suspicion = Suspicion(accusers, self._time.now, self._roster.nodes)
            before = member.liveness
            self._roster.hold(member, Liveness.SUSPECT, self._time.now)
            member.suspicion = suspicion
            if before is Liveness.ALIVE:
                self._changed(MemberChanged(member.status, before, Liveness.SUSPECT, why))
            self._suspected(member)
        self._rumours.tell(member.life, accusation_of(member, self._me.life))
        self._timers.set(suspicion.ends_at, self._suspicion_ends, member, suspicion)

    def _suspicion_ends(self, member: Member, suspicion: Suspicion) -> None:
        if member.suspicion is suspicion and self._time.now + ROUNDING_S >= suspicion.ends_at:
            rumour = write_dead(member.life, member.incarnation, self._me.life)
            self._end(member, Liveness.DEAD, rumour, f"not refuted, {len(suspicion.accusers)} accusers")

    def _take_end(self, rumour: Dead | Left) -> None:
        if rumour.life == self._me.life:
            self._answer_accusation(rumour.incarnation)
            return
        member = self._roster.by_life.get(rumour.life)
        if member is None or rumour.incarnation < member.incarnation:
            return
        if rumour.incarnation > member.incarnation:
            self._roster.update(member, replace(member.status, incarnation=rumour.incarnation))
        if isinstance(rumour, Left):
            self._end(member, Liveness.LEFT, write_left(*rumour), "its own word")
        else:
            self._end(member, Liveness.DEAD, write_dead(*rumour), "gossip")

    def _end(self, member: Member, liveness: Liveness, rumour: bytes, why: str) -> None:
        before = member.liveness
        if before is Liveness.LEFT or before is liveness:
            return
        self._roster.hold(member, liveness, self._time.now)
        self._loads.drop(member.life)
        self._rumours.tell(member.life, rumour)
        self._changed(MemberChanged(member.status, before, liveness, why))
        if liveness is Liveness.LEFT:
            self._timers.set(self._time.now + LEFT_KEPT_S, self._bury, member)

    def _bury(self, member: Member) -> None:
        if self._roster.has(member):
            self._roster.forget(member)

    def _answer_accusation(self, incarnation: int) -> None:
        if incarnation >= self._me.status.incarnation:
            self._refute(incarnation)
        else:
            self.was_told_old_news = True

    def _refute(self, incarnation: int) -> None:
        if self._me.has_left:
            return
        self._me.refute(incarnation)
        self._health.worse()
        self.refutations += 1
        self.has_to_refute = True


def accusation_of(member: Member, by: bytes) -> bytes:
    """What a member has to hear of itself, so that it can refute; b"" where nothing is held against it.

    by: this node's life.
    """
    if member.suspicion is not None:
        status = member.status
        return write_suspect(
            member.life, member.incarnation, status.state, member.suspicion.accusers, status.continuation_methods
        )
    if member.liveness is Liveness.DEAD:
        return write_dead(member.life, member.incarnation, by)
    return b""
