"""Membership's tables: who is known, how two of them are compared, whom tags name."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node_agent.contract.errors import InvalidTransition
from node_agent.contract.states import NodeState
from node_agent.core.membership.anti_entropy import (
    differing_buckets,
    local_summary,
    read_summary,
    write_page,
    write_summary,
)
from node_agent.core.membership.broadcast_queue import BroadcastQueue
from node_agent.core.membership.join_candidates import MAX_RETRY_S, JoinCandidates
from node_agent.core.membership.member_table import MAX_TOMBSTONES, Member, MemberTable, ProbeOrder
from node_agent.core.membership.outbound import LocalNode
from node_agent.core.membership.wire.updates import Intro, read_updates
from node_agent.core.node.status import Liveness, TaggedNode
from sim.fleet import status_of


def boot_id(number: int) -> bytes:
    return number.to_bytes(6, "big")


# the table


def member(number: int) -> Member:
    return Member(boot_id(number), status_of(number, 1), 0.0, None)


@given(st.lists(st.tuples(st.sampled_from("awr"), st.integers(0, 30)), max_size=120), st.integers(0, 99))
def test_a_rotation_visits_each_member_once_a_round_during_joins_and_leaves(
    steps: list[tuple[str, int]], seed: int
) -> None:
    rotation = ProbeOrder(random.Random(seed).random)
    within: dict[int, Member] = {}
    walked: list[Member] = []
    for step, number in steps:
        if step == "a" and number not in within:
            within[number] = member(number)
            rotation.add(within[number])
        elif step == "r" and number in within:
            gone = within.pop(number)
            rotation.remove(gone)
            walked = [other for other in walked if other is not gone]
        elif step == "w" and within:
            if len(walked) >= len(within):
                walked = []
            next_one = rotation.next()
            assert next_one is not None
            assert next_one not in walked
            assert next_one in within.values()
            walked.append(next_one)
        assert sorted(m.boot_id for m in rotation) == sorted(m.boot_id for m in within.values())
        assert all(rotation._members[m.order_index] is m for m in rotation)


def test_removing_a_member_that_is_not_in_the_rotation_is_an_error() -> None:
    with pytest.raises(InvalidTransition):
        ProbeOrder(lambda: 0.5).remove(member(1))
    assert ProbeOrder(lambda: 0.5).next() is None


@pytest.mark.parametrize("count", [1, 2, 3, 4, 9, 10, 50])
def test_a_sample_has_distinct_members_and_reaches_all_in_time(count: int) -> None:
    rotation = ProbeOrder(random.Random(count).random)
    members = [member(number) for number in range(count)]
    for one in members:
        rotation.add(one)
    drawn: set[bytes] = set()
    for _ in range(400):
        some = rotation.sample(3, excluding=members[0])
        assert len({m.boot_id for m in some}) == len(some) == min(3, count - 1)
        assert members[0] not in some
        drawn |= {m.boot_id for m in some}
    assert drawn == {m.boot_id for m in members[1:]}


def make_table(*numbers: int, max_nodes: int = 100) -> MemberTable:
    table = MemberTable("me", random.Random(1).random, max_nodes)
    for number in numbers:
        table.add(boot_id(number), status_of(number, 1), 0.0)
    return table


def test_the_table_is_bounded_and_the_dead_make_room() -> None:
    table = make_table(1, 2, max_nodes=2)
    assert table.add(boot_id(3), status_of(3, 1), 0.0) is None
    table.set_liveness(table.by_boot_id[boot_id(1)], Liveness.DEAD, 1.0)
    assert table.add(boot_id(3), status_of(3, 1), 0.0) is not None
    assert set(table.by_boot_id) == {boot_id(2), boot_id(3)}
    assert table.newest_incarnation(status_of(1, 1).instance_id) == 1


def test_a_removed_member_leaves_a_tombstone_and_tombstones_are_bounded() -> None:
    table = make_table(1)
    table.forget(table.by_boot_id[boot_id(1)])
    assert table.newest_incarnation(status_of(1, 1).instance_id) == 1
    assert table.newest_incarnation("i-unknown") == -1
    for number in range(2, MAX_TOMBSTONES + 10):
        admitted = table.add(boot_id(number), status_of(number, 1), 0.0)
        assert admitted is not None
        table.forget(admitted)
    assert len(table.tombstones) == MAX_TOMBSTONES


def test_a_removed_boot_id_that_returns_keeps_its_used_sequence_numbers() -> None:
    table = make_table()
    first = table.add(boot_id(1), status_of(1, 1), 0.0, seen_up_to=40)
    assert first is not None
    table.forget(first)
    again = table.add(boot_id(1), status_of(1, 2), 9.0, seen_up_to=10)
    assert again is not None
    assert again.window is not None
    assert not again.window.accept(40)
    assert again.window.accept(41)


def test_a_view_sorts_members_by_their_liveness_and_state() -> None:
    table = make_table(1, 2, 3, 4, 5)
    ids = [status_of(number, 1).instance_id for number in range(6)]
    table.update(table.by_id[ids[1]], replace(status_of(1, 2), state=NodeState.DRAINING))
    for number, liveness in ((2, Liveness.SUSPECT), (3, Liveness.DEAD), (4, Liveness.LEFT)):
        table.set_liveness(table.by_id[ids[number]], liveness, 1.0)
    view = table.view
    assert [status.instance_id for status in view.alive] == [ids[1], ids[5]]
    assert [status.instance_id for status in view.serving] == [ids[5]]
    assert [status.instance_id for status in view.suspects] == [ids[2]]
    assert [status.instance_id for status in view.known] == [ids[1], ids[2], ids[3], ids[5]]
    assert table.view is view
    assert table.nodes == 4


# comparing tables


NUMBERS = st.sets(st.integers(1, 2**20), max_size=40)


@given(NUMBERS, NUMBERS, st.integers(0, 99))
def test_summaries_differ_exactly_where_tables_do_and_a_page_repairs_them(
    left: set[int], right: set[int], start: int
) -> None:
    a, b = scattered(left), scattered(right)
    buckets = differing_buckets(a.summary, b.summary)
    assert bool(buckets) == (left != right)
    me = LocalNode(status_of(2**21, 1), bytes(5) + b"m", BroadcastQueue())
    for update in read_updates(write_page(a, me, buckets, start), 0):
        assert isinstance(update, Intro)
        if update.boot_id not in b.by_boot_id:
            b.add(update.boot_id, update.status, 0.0)
    assert {boot_id for boot_id in b.by_boot_id if boot_id != me.boot_id} == {*scattered(left | right).by_boot_id}


def scattered(numbers: set[int]) -> MemberTable:
    """A table whose lives fall into all buckets, the same for the same number."""
    table = MemberTable("me", lambda: 0.5)
    for number in numbers:
        table.add(bytes((number % 251,)) + number.to_bytes(5, "big"), status_of(number, 1), 0.0)
    return table


def test_a_summary_is_undone_by_the_same_changes() -> None:
    table = make_table(1, 2, 3)
    before = list(table.summary)
    third = table.by_boot_id[boot_id(3)]
    table.set_liveness(third, Liveness.SUSPECT, 1.0)
    assert table.summary == before  # a suspect is still there
    table.set_liveness(third, Liveness.DEAD, 1.0)
    assert table.summary != before
    table.set_liveness(third, Liveness.ALIVE, 1.0)
    assert table.summary == before
    me = LocalNode(status_of(9, 1), boot_id(9), BroadcastQueue())
    assert read_summary(b"xx" + write_summary(local_summary(table, me)), 2) == tuple(local_summary(table, me))
    with pytest.raises(ValueError, match="summary"):
        read_summary(b"short", 0)


# names from tags


def test_discovered_names_are_greeted_ever_less_often_until_they_join_or_vanish() -> None:
    table, names = make_table(1), JoinCandidates(capacity=10)
    tags = [TaggedNode(status_of(number, 1).instance_id, f"host{number}:1", None) for number in range(1, 4)]
    names.replace([*tags, TaggedNode("me", "me:1", None)], table, 0.0)
    assert len(names) == 2
    assert names.due(5, table, 0.0) == ["host2:1", "host3:1"]
    assert names.due(5, table, 0.5) == []
    assert names.due(1, table, 1.0) == ["host2:1"]
    table.add(boot_id(2), status_of(2, 1), 0.0)
    names.replace(tags[2:], table, 2.0)
    times, now = [], 2.0
    while now < 600:
        if names.due(5, table, now):
            times.append(now)
        now += 0.5
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert gaps == sorted(gaps)
    assert max(gaps) == MAX_RETRY_S
    names.replace([], table, now)
    assert len(names) == 0


def test_discovered_names_are_bounded_and_a_thousand_cost_no_more_than_a_few() -> None:
    names = JoinCandidates(capacity=50)
    names.replace([TaggedNode(f"i-{number}", f"h{number}:1", None) for number in range(999)], make_table(), 0.0)
    assert len(names) == 50
    assert len(names.due(3, make_table(), 0.0)) == 3
