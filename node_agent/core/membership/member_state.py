"""What an update changes: SWIM's order of precedence (section 4.2), and this node's refutations.

    Alive(i)    beats  Alive, Suspect, Dead of an incarnation below i
    Suspect(i)  beats  Alive of i and below, Suspect below i; confirms Suspect of i
    Dead(i)     beats  Alive and Suspect of i and below
    Left(i)     beats  everything of the same boot id, for good
    Intro(i)    is Alive(i), and a newer boot id of an instance where i is higher than anything known of the old one

What is applied is broadcast; the rest is dropped. This node never applies an accusation of itself: it refutes it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from node_agent.core.membership.active_clock import ActiveClock
from node_agent.core.membership.broadcast_queue import BroadcastQueue, LoadQueue
from node_agent.core.membership.change_reason import Cause, ChangeReason, NotRefuted
from node_agent.core.membership.events import MemberChanged
from node_agent.core.membership.local_health import LocalHealth
from node_agent.core.membership.member_table import Member, MemberTable
from node_agent.core.membership.outbound import LocalNode
from node_agent.core.membership.suspicion import Suspicion
from node_agent.core.membership.timers import ROUNDING_S, Timers
from node_agent.core.membership.wire.loads import LOAD_BYTES, load_of, read_loads
from node_agent.core.membership.wire.updates import (
    Alive,
    Dead,
    Intro,
    KeyUsage,
    Left,
    Loads,
    Refusal,
    Suspect,
    Update,
    write_dead,
    write_intro,
    write_left,
    write_suspect,
)
from node_agent.core.node.status import Liveness, NodeStatus

LEFT_RETENTION_S = 60.0
"""How long a node that left stays in the table, so that syncs include it; then its tombstone keeps it out."""


class MemberState:
    """Applies updates to the table.

    on_change receives every change, on_suspect every member that becomes suspect, on_refusal every refusal,
    on_key_usage every report of what keys used.
    on_stale_intro receives every introduction of another boot id whose incarnation is not above the known one, and the
    known one.
    """

    def __init__(
        self,
        local: LocalNode,
        table: MemberTable,
        broadcasts: BroadcastQueue,
        loads: LoadQueue,
        timers: Timers,
        health: LocalHealth,
        clock: ActiveClock,
        on_change: Callable[[MemberChanged], None],
        on_suspect: Callable[[Member], None],
        on_stale_intro: Callable[[Intro, int], None],
        on_refusal: Callable[[Refusal], None] = lambda refusal: None,
        on_key_usage: Callable[[KeyUsage], None] = lambda update: None,
    ) -> None:
        self._local = local
        self._table = table
        self._broadcasts = broadcasts
        self._loads = loads
        self._timers = timers
        self._health = health
        self._clock = clock
        self._on_change = on_change
        self._on_suspect = on_suspect
        self._on_stale_intro = on_stale_intro
        self._on_refusal = on_refusal
        self._on_key_usage = on_key_usage
        self.refutations = 0
        self.refutation_pending = False
        """A refutation waits to be sent: the owner sends it at once."""

        self.received_stale_accusation = False
        """A node has not received this node's last refutation: the receiver of its message sends it again."""

        self.sync_needed = False
        """An update named a boot id that was never introduced here: the owner syncs with a peer."""

    def is_about_local_node(self, update: Update) -> bool:
        """Return whether an update is about this node's present boot id."""
        return not isinstance(update, Loads | Refusal | KeyUsage) and update.boot_id == self._local.boot_id

    def apply(self, update: Update) -> None:
        """Apply an update, if it takes precedence."""
        match update:
            case Loads():
                self._apply_loads(update)
            case Alive():
                self._apply_alive(update)
            case Suspect():
                self._apply_suspect(update)
            case Dead() | Left():
                self._apply_dead_or_left(update)
            case Intro():
                self.apply_intro(update, Cause.GOSSIP)
            case Refusal():
                self._on_refusal(update)
            case KeyUsage():
                self._on_key_usage(update)

    def _apply_loads(self, update: Loads) -> None:
        by_boot_id, packed = self._table.by_boot_id, update.packed
        for number, read in enumerate(read_loads(packed)):
            member = by_boot_id.get(read[0])
            if member is not None and read[1] > member.load_version:
                member.load, member.load_version = load_of(read), read[1]
                self._loads.add(read[0], packed[number * LOAD_BYTES : (number + 1) * LOAD_BYTES])

    def apply_intro(
        self, intro: Intro, reason: Cause, *, seen_up_to: int | None = None, broadcast: bool = True
    ) -> Member | None:
        """Apply an introduction, if it takes precedence.

        reason: of the change; seen_up_to: see MemberTable.add; broadcast: whether a new member is broadcast.

        Returns:
            The member that it added; None where it added none: it is about this node or about a known boot id, is
            stale, or the table is full.
        """
        boot_id, status = intro
        if self._table.is_shut_out(status.instance_id):
            return None
        if status.instance_id == self._table.own_id:
            if boot_id != self._local.boot_id and status.incarnation >= self._local.status.incarnation:
                self._refute(status.incarnation)  # this instance before a restart, with a clock that was ahead
                self._local.broadcast_intro()
            return None
        known = self._table.by_boot_id.get(boot_id)
        if known is not None:
            # The rest of a status is fixed for a boot id: no other node can give a member another address or key.
            self._mark_alive(known, _with_state_of(known.status, status), reason)
            return None
        newest = self._table.newest_incarnation(status.instance_id)
        if status.incarnation <= newest:
            self._on_stale_intro(intro, newest)
            return None
        before = self._table.by_id.get(status.instance_id)
        if before is not None and self._is_impostor(before, status):
            return None
        member = self._table.add(boot_id, status, self._clock.now, seen_up_to)
        if member is None:
            return None
        if before is not None:
            self._broadcasts.drop(before.boot_id)
            self._loads.drop(before.boot_id)
        if broadcast:
            self._broadcasts.add(boot_id, write_intro(boot_id, status))
        self._on_change(MemberChanged(status, before.liveness if before else None, Liveness.ALIVE, reason))
        return member

    def _is_impostor(self, before: Member, status: NodeStatus) -> bool:
        """Return whether an introduction has another key than the present member for which EC2 vouches.

        An agent that has restarted with a new key is let in once EC2 has that, or once its old boot id is dead.
        """
        return before.is_vouched and before.liveness.is_present and not self._table.vouches_for(status)

    def _apply_alive(self, update: Alive) -> None:
        if update.boot_id == self._local.boot_id:
            if update.incarnation > self._local.status.incarnation:
                self._refute(update.incarnation)
            return
        member = self._table.by_boot_id.get(update.boot_id)
        if member is None:
            self.sync_needed = True
        elif update.incarnation > member.incarnation:
            status = replace(
                member.status,
                state=update.state,
                continuation_methods=update.continuation_methods,
                incarnation=update.incarnation,
                deadline=update.deadline,
            )
            self._mark_alive(member, status, Cause.GOSSIP)

    def _mark_alive(self, member: Member, status: NodeStatus, reason: Cause) -> None:
        if status.incarnation <= member.incarnation or member.liveness is Liveness.LEFT:
            return
        before, state = member.liveness, member.status.state
        self._table.update(member, status)
        if before is not Liveness.ALIVE:
            self._table.set_liveness(member, Liveness.ALIVE, self._clock.now)
        self._broadcasts.add_alive(member.boot_id, status)
        if before is not Liveness.ALIVE or state is not status.state:
            self._on_change(MemberChanged(status, before, Liveness.ALIVE, reason))

    def _apply_suspect(self, update: Suspect) -> None:
        if update.boot_id == self._local.boot_id:
            self._on_self_accused(update.incarnation)
            return
        member = self._table.by_boot_id.get(update.boot_id)
        if member is None or update.incarnation < member.incarnation or not member.liveness.is_present:
            return
        if update.incarnation > member.incarnation:
            status = replace(
                member.status,
                state=update.state,
                continuation_methods=update.continuation_methods,
                incarnation=update.incarnation,
            )
            self._table.update(member, status)
            member.suspicion = None  # it was about an older incarnation
        self.suspect(member, update.suspectors, Cause.GOSSIP)

    def suspect(self, member: Member, suspectors: frozenset[bytes], reason: Cause) -> None:
        """Suspect a member in its present incarnation, or confirm its suspicion."""
        if not member.liveness.is_present or not self._table.has(member):
            return
        suspicion = member.suspicion
        if suspicion is not None:
            if not suspicion.confirm(suspectors):
                return
        else:
            suspicion = Suspicion(suspectors, self._clock.now, self._table.nodes)
            before = member.liveness
            self._table.set_liveness(member, Liveness.SUSPECT, self._clock.now)
            member.suspicion = suspicion
            if before is Liveness.ALIVE:
                self._on_change(MemberChanged(member.status, before, Liveness.SUSPECT, reason))
            self._on_suspect(member)
        self._broadcasts.add(member.boot_id, pending_accusation(member, self._local.boot_id))
        self._timers.schedule(suspicion.ends_at, self._on_suspicion_timeout, member, suspicion)

    def _on_suspicion_timeout(self, member: Member, suspicion: Suspicion) -> None:
        if member.suspicion is suspicion and self._clock.now + ROUNDING_S >= suspicion.ends_at:
            update = write_dead(member.boot_id, member.incarnation, self._local.boot_id)
            self._mark_gone(member, Liveness.DEAD, update, NotRefuted(len(suspicion.suspectors)))

    def _apply_dead_or_left(self, update: Dead | Left) -> None:
        if update.boot_id == self._local.boot_id:
            self._on_self_accused(update.incarnation)
            return
        member = self._table.by_boot_id.get(update.boot_id)
        if member is None or update.incarnation < member.incarnation:
            return
        if update.incarnation > member.incarnation:
            self._table.update(member, replace(member.status, incarnation=update.incarnation))
        if isinstance(update, Left):
            self._mark_gone(member, Liveness.LEFT, write_left(*update), Cause.LEFT)
        else:
            self._mark_gone(member, Liveness.DEAD, write_dead(*update), Cause.GOSSIP)

    def _mark_gone(self, member: Member, liveness: Liveness, update: bytes, reason: ChangeReason) -> None:
        before = member.liveness
        if before is Liveness.LEFT or before is liveness:
            return
        self._table.set_liveness(member, liveness, self._clock.now)
        self._loads.drop(member.boot_id)
        self._broadcasts.add(member.boot_id, update)
        self._on_change(MemberChanged(member.status, before, liveness, reason))
        if liveness is Liveness.LEFT:
            self._timers.schedule(self._clock.now + LEFT_RETENTION_S, self._forget_left, member)

    def shut_out(self, member: Member) -> None:
        """Treat a member as one that left, at this node: each node reads by itself who is shut out."""
        before = member.liveness
        if before is Liveness.LEFT:
            return
        self._table.set_liveness(member, Liveness.LEFT, self._clock.now)
        self._loads.drop(member.boot_id)
        self._broadcasts.drop(member.boot_id)
        self._on_change(MemberChanged(member.status, before, Liveness.LEFT, Cause.SHUT_OUT))
        self._timers.schedule(self._clock.now + LEFT_RETENTION_S, self._forget_left, member)

    def _forget_left(self, member: Member) -> None:
        if self._table.has(member):
            self._table.forget(member)

    def _on_self_accused(self, incarnation: int) -> None:
        if incarnation >= self._local.status.incarnation:
            self._refute(incarnation)
        else:
            self.received_stale_accusation = True

    def _refute(self, incarnation: int) -> None:
        if self._local.has_left:
            return
        self._local.refute(incarnation)
        self._health.increase()
        self.refutations += 1
        self.refutation_pending = True


def _with_state_of(status: NodeStatus, newer: NodeStatus) -> NodeStatus:
    """Return a status with what of a newer one may change under the same boot id."""
    return replace(
        status,
        state=newer.state,
        continuation_methods=newer.continuation_methods,
        deadline=newer.deadline,
        incarnation=newer.incarnation,
    )


def pending_accusation(member: Member, by: bytes) -> bytes:
    """Return what a member has to receive, so that it can refute; b"" where nothing is held against it.

    by: this node's boot id.
    """
    if member.suspicion is not None:
        status = member.status
        return write_suspect(
            member.boot_id, member.incarnation, status.state, member.suspicion.suspectors, status.continuation_methods
        )
    if member.liveness is Liveness.DEAD:
        return write_dead(member.boot_id, member.incarnation, by)
    return b""
