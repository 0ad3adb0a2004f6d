"""SWIM's order of precedence between updates, for each pair of a held state and an update."""

from __future__ import annotations

from dataclasses import replace

import pytest

from node_agent.contract.states import NodeState
from node_agent.core.membership.active_clock import ActiveClock
from node_agent.core.membership.broadcast_queue import BroadcastQueue, LoadQueue
from node_agent.core.membership.change_reason import Cause, ChangeReason, NotRefuted
from node_agent.core.membership.events import MemberChanged
from node_agent.core.membership.local_health import LocalHealth
from node_agent.core.membership.member_state import LEFT_RETENTION_S, MemberState
from node_agent.core.membership.member_table import Member, MemberTable
from node_agent.core.membership.outbound import LocalNode
from node_agent.core.membership.suspicion import max_timeout_s, min_timeout_s
from node_agent.core.membership.timers import Timers
from node_agent.core.membership.wire.loads import write_load
from node_agent.core.membership.wire.updates import Alive, Dead, Intro, Left, Loads, Suspect, Update, read_updates
from node_agent.core.node.status import Liveness, Load
from sim.fleet import status_of

ME, PEER, OTHER, NEWER = b"me-me-", b"peer--", b"other-", b"newer-"
ALIVE, SUSPECT, DEAD, LEFT = Liveness.ALIVE, Liveness.SUSPECT, Liveness.DEAD, Liveness.LEFT


class Scene:
    """One node with one peer in incarnation 5 in its table."""

    def __init__(self, liveness: Liveness = ALIVE) -> None:
        self.changes: list[MemberChanged] = []
        self.suspected: list[Member] = []
        self.stale_intros: list[tuple[bytes, int]] = []
        self.updates, self.loads, self.timers = BroadcastQueue(), LoadQueue(10), Timers()
        self.time, self.health = ActiveClock(0.0), LocalHealth()
        self.me = LocalNode(status_of(1, 5), ME, self.updates)
        self.table = MemberTable(self.me.status.instance_id, lambda: 0.5)
        self.member_state = MemberState(
            self.me, self.table, self.updates, self.loads, self.timers, self.health, self.time,
            self.changes.append, self.suspected.append,
            lambda intro, newest: self.stale_intros.append((intro.boot_id, newest)),
        )  # fmt: skip
        for number, boot_id in ((2, PEER), (3, OTHER)):
            self.table.add(boot_id, status_of(number, 5), 0.0)
        if liveness is SUSPECT:
            self.member_state.apply(Suspect(PEER, 5, NodeState.READY, frozenset((OTHER,))))
        elif liveness is DEAD:
            self.member_state.apply(Dead(PEER, 5, OTHER))
        elif liveness is LEFT:
            self.member_state.apply(Left(PEER, 5))
        assert self.peer.liveness is liveness
        self.changes.clear()
        self.suspected.clear()
        self.updates.next_batch(10_000, limit=1)

    @property
    def peer(self) -> Member:
        return self.table.by_id[status_of(2, 5).instance_id]

    def pass_time(self, seconds: float) -> None:
        self.time.advance(self.time.to_external(self.time.now + seconds), self.time.now + seconds)
        self.timers.fire(self.time.now)


def update(kind: type, incarnation: int) -> Update:
    made: dict[type, Update] = {
        Alive: Alive(PEER, incarnation, NodeState.READY),
        Intro: Intro(PEER, status_of(2, incarnation)),
        Suspect: Suspect(PEER, incarnation, NodeState.READY, frozenset((OTHER,))),
        Dead: Dead(PEER, incarnation, OTHER),
        Left: Left(PEER, incarnation),
    }
    return made[kind]


@pytest.mark.parametrize(
    "update",
    [
        Alive(PEER, 6, NodeState.DRAINING, (), 1_000),
        Intro(PEER, replace(status_of(2, 6), state=NodeState.DRAINING, deadline=1_000)),
    ],
)
def test_a_members_deadline_is_known_and_sent_on(update: Update) -> None:
    scene = Scene(ALIVE)
    scene.member_state.apply(update)
    assert scene.peer.status.deadline == 1_000
    (sent,) = read_updates(b"".join(scene.updates.next_batch(1_000, limit=9)), 0)
    assert sent == Alive(PEER, 6, NodeState.DRAINING, (), 1_000)


@pytest.mark.parametrize(
    ("held", "kind", "incarnation", "after"),
    [
        # an update of an older incarnation changes nothing
        *[(held, kind, 4, held) for held in Liveness for kind in (Alive, Intro, Suspect, Dead, Left)],
        # Alive and Intro need a higher incarnation
        *[(held, kind, 5, held) for held in Liveness for kind in (Alive, Intro)],
        *[(held, kind, 6, ALIVE) for held in (ALIVE, SUSPECT, DEAD) for kind in (Alive, Intro)],
        # Suspect needs the same incarnation, and a member that is alive or suspect
        *[(held, Suspect, incarnation, SUSPECT) for held in (ALIVE, SUSPECT) for incarnation in (5, 6)],
        *[(DEAD, Suspect, incarnation, DEAD) for incarnation in (5, 6)],
        # Dead and Left need the same incarnation
        *[(held, Dead, incarnation, DEAD) for held in (ALIVE, SUSPECT, DEAD) for incarnation in (5, 6)],
        *[(held, Left, incarnation, LEFT) for held in Liveness for incarnation in (5, 6)],
        # Left is final for its boot id
        *[(LEFT, kind, 6, LEFT) for kind in (Alive, Intro, Suspect, Dead)],
    ],
)
def test_each_update_supersedes_a_state_or_is_dropped(
    held: Liveness, kind: type, incarnation: int, after: Liveness
) -> None:
    scene = Scene(held)
    scene.member_state.apply(update(kind, incarnation))
    assert scene.peer.liveness is after
    assert scene.peer.incarnation >= 5
    assert [change.after for change in scene.changes] == ([after] if after is not held else [])
    accepted = after is not held or (incarnation > 5 and held is not LEFT and (kind is not Suspect or held is not DEAD))
    if held is after is LEFT or (held is after is DEAD and kind is Dead):
        accepted = False
    assert len(scene.updates) == int(accepted)  # an accepted update is gossiped, any other is dropped


def test_a_suspicion_expires_to_dead_unless_it_is_refuted() -> None:
    for refuted in (False, True):
        scene = Scene(SUSPECT)
        scene.pass_time(max_timeout_s(3) - 0.1)
        assert scene.peer.liveness is SUSPECT
        if refuted:
            scene.member_state.apply(Alive(PEER, 6, NodeState.READY))
        scene.pass_time(0.2)
        assert scene.peer.liveness is (ALIVE if refuted else DEAD)


@pytest.mark.parametrize(
    ("received", "reason"),
    [
        (Intro(NEWER, status_of(2, 9)), Cause.GOSSIP),
        (Suspect(PEER, 5, NodeState.READY, frozenset((OTHER,))), Cause.GOSSIP),
        (Alive(PEER, 6, NodeState.DRAINING), Cause.GOSSIP),
        (Dead(PEER, 5, OTHER), Cause.GOSSIP),
        (Left(PEER, 5), Cause.LEFT),
    ],
)
def test_a_change_that_another_node_reports_has_gossip_as_its_cause_except_a_leave(
    received: Update, reason: ChangeReason
) -> None:
    scene = Scene()
    scene.member_state.apply(received)
    assert [change.reason for change in scene.changes] == [reason]


def test_a_death_after_a_suspicion_has_the_number_of_suspectors() -> None:
    scene = Scene()
    scene.member_state.suspect(scene.peer, frozenset((ME,)), Cause.SILENT)
    scene.member_state.apply(Suspect(PEER, 5, NodeState.READY, frozenset((OTHER,))))
    scene.pass_time(max_timeout_s(3) + 0.1)
    assert [change.reason for change in scene.changes] == [Cause.SILENT, NotRefuted(2)]


def test_the_texts_of_the_reasons_in_logs() -> None:
    texts = [
        "answered",
        "silent",
        "refused",
        "gossip",
        "comparison",
        "it left",
        "EC2 vouches for it",
        "it was shut out",
    ]
    assert [str(cause) for cause in Cause] == texts
    assert str(NotRefuted(2)) == "not refuted, 2 suspectors"


def test_a_confirmed_suspicion_ends_sooner() -> None:
    scene = Scene(SUSPECT)
    scene.member_state.apply(Suspect(PEER, 5, NodeState.READY, frozenset((b"third-",))))
    scene.pass_time(min_timeout_s(3) + 0.1)
    assert scene.peer.liveness is DEAD


def test_a_suspicion_of_a_newer_incarnation_restarts_the_timer_and_sets_the_state() -> None:
    scene = Scene(SUSPECT)
    scene.pass_time(max_timeout_s(3) - 0.5)
    scene.member_state.apply(Suspect(PEER, 6, NodeState.DRAINING, frozenset((OTHER,))))
    assert scene.peer.status.state is NodeState.DRAINING
    scene.pass_time(1.0)
    assert scene.peer.liveness is SUSPECT


def test_a_suspicion_of_an_older_boot_does_not_touch_the_newer_one() -> None:
    scene = Scene(SUSPECT)
    before = scene.peer
    scene.member_state.apply(Intro(NEWER, status_of(2, 9)))
    assert scene.peer.boot_id == NEWER
    scene.pass_time(max_timeout_s(3) + 1)
    assert scene.peer.liveness is ALIVE
    assert not scene.table.has(before)


def test_a_late_probe_failure_of_an_older_boot_changes_nothing() -> None:
    scene = Scene()
    before = scene.peer
    scene.member_state.apply(Intro(NEWER, status_of(2, 9)))
    scene.changes.clear()
    scene.member_state.suspect(before, frozenset((ME,)), Cause.SILENT)
    scene.pass_time(max_timeout_s(3) + 1)
    assert scene.changes == []


@pytest.mark.parametrize("incarnation", [4, 5])
def test_an_older_or_equal_incarnation_does_not_replace_the_known_one(incarnation: int) -> None:
    scene = Scene()
    scene.member_state.apply(Intro(NEWER, status_of(2, incarnation)))
    assert scene.peer.boot_id == PEER
    assert scene.stale_intros == [
        (NEWER, 5)
    ]  # it gets a JOIN: if it is the newer one after all, it raises its incarnation


def test_a_member_that_left_is_removed_and_returns_only_as_a_newer_incarnation() -> None:
    scene = Scene(LEFT)
    scene.pass_time(LEFT_RETENTION_S + 0.1)
    assert PEER not in scene.table.by_boot_id
    scene.member_state.apply(Intro(PEER, status_of(2, 5)))
    scene.member_state.apply(Intro(NEWER, status_of(2, 5)))
    assert scene.table.by_id.keys() == {status_of(3, 5).instance_id}
    scene.member_state.apply(Intro(NEWER, status_of(2, 6)))
    assert scene.peer.boot_id == NEWER


@pytest.mark.parametrize("kind", [Suspect, Dead, Left])
@pytest.mark.parametrize("incarnation", [4, 5, 9])
def test_an_accusation_of_this_node_is_refuted_once_and_lowers_its_health(kind: type, incarnation: int) -> None:
    scene = Scene()
    accusation = update(kind, incarnation)._replace(boot_id=ME)  # type: ignore[call-arg] # all have a boot id
    scene.member_state.apply(accusation)
    scene.member_state.apply(accusation)
    refuted = incarnation >= 5
    assert scene.me.status.incarnation == (incarnation + 1 if refuted else 5)
    assert scene.member_state.refutations == scene.health.score == int(refuted)
    assert scene.member_state.refutation_pending is refuted
    assert scene.member_state.received_stale_accusation  # the second accusation is stale in any case
    assert len(scene.updates) == int(refuted)


def test_a_node_that_has_left_does_not_refute() -> None:
    scene = Scene()
    scene.me.leave()
    scene.member_state.apply(Dead(ME, 9, OTHER))
    assert scene.me.status.incarnation == 5


def test_an_older_boot_of_this_instance_is_superseded() -> None:
    """Peers still have this node's entry from before a restart with the clock set back."""
    scene = Scene()
    scene.member_state.apply(Intro(NEWER, status_of(1, 900)))
    assert scene.me.status.incarnation == 901
    assert scene.me.status.instance_id not in scene.table.by_id


def test_an_unknown_boot_id_is_a_reason_to_sync_tables() -> None:
    scene = Scene()
    for unknown in (Suspect(NEWER, 5, NodeState.READY, frozenset((OTHER,))), Dead(NEWER, 5, OTHER), Left(NEWER, 5)):
        scene.member_state.apply(unknown)
    assert not scene.member_state.sync_needed
    scene.member_state.apply(Alive(NEWER, 5, NodeState.READY))
    assert scene.member_state.sync_needed


def test_only_a_newer_load_is_stored_and_gossiped() -> None:
    scene = Scene()
    busy, calm = Load(9, 1, 0.5, 0.02, 100.0), Load(1, 0, 0.0, 0.02, 100.0)
    scene.member_state.apply(Loads(write_load(PEER, 7, busy)))
    assert scene.peer.load.in_flight == 10
    assert len(scene.loads) == 1
    scene.loads.next_batch(1000)
    scene.loads.drop(PEER)
    scene.member_state.apply(
        Loads(write_load(PEER, 6, calm) + write_load(PEER, 7, calm) + write_load(b"absent", 1, calm))
    )
    assert scene.peer.load.in_flight == 10
    assert len(scene.loads) == 0
