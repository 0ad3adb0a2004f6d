"""Test the EC2 calls of whole fleets against the account's bucket."""

from __future__ import annotations

import heapq
import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node_agent.core.node.discovery_schedule import (
    FIRST_READ_WITHIN_S,
    MAX_BACKED_OFF,
    MIN_INTERVAL_S,
    REFILL_PER_S,
    SHARE,
    DiscoverySchedule,
    calls_needed,
    interval_s,
)
from sim.ec2_calls import BURST, looks


@pytest.mark.parametrize("nodes", [3, 10, 100, 1_000, 3_000])
def test_a_fleet_of_any_size_stays_under_a_fifth_of_the_buckets_refill(nodes: int) -> None:
    seconds = 20 * interval_s(nodes)
    found = looks(nodes, seconds, booting=0, seed=1)
    assert len(found.calls) / seconds < REFILL_PER_S / 5
    assert found.reads.refused == 0
    assert found.reads.lowest > 0.8 * BURST


def test_a_large_fleet_lists_every_second_and_a_small_one_every_half_minute() -> None:
    calls = looks(1_000, 1_000, booting=0, seed=1).calls
    gaps = sorted(later - earlier for earlier, later in itertools.pairwise(calls))
    assert gaps[int(0.99 * len(gaps))] < 2.0
    assert interval_s(3) == MIN_INTERVAL_S


@pytest.mark.parametrize("already", [0, 900, 1_900])
def test_a_hundred_nodes_that_boot_at_once_do_not_exhaust_the_bucket(already: int) -> None:
    for seed in range(20):
        found = looks(already + 100, 60.0, booting=100, seed=seed)
        assert found.reads.refused == found.taggings.refused == 0
        assert found.reads.lowest > BURST / 3
        assert found.taggings.lowest > BURST / 5
        assert sum(at <= FIRST_READ_WITHIN_S for at in found.calls) >= 100


def test_a_node_that_finds_no_peer_lists_soon_again_and_then_at_the_common_rate() -> None:
    reads = DiscoverySchedule()
    waits = [reads.next_delay_s(1, 0.5) for _ in range(7)]
    assert waits == [2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]
    assert reads.next_delay_s(2, 0.5) == MIN_INTERVAL_S
    assert reads.next_delay_s(1, 0.5) == 2.0


def test_a_member_without_a_voucher_is_looked_up_soon_and_ever_more_seldom() -> None:
    reads = DiscoverySchedule()
    assert [reads.unvouched_delay_s(3, 0.5) for _ in range(8)] == [1.0, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
    reads.all_vouched()
    assert reads.unvouched_delay_s(2, 0.0) < 0.5


@pytest.mark.parametrize("nodes", [3, 10, 89, 90, 500, 3_000])
def test_lookups_of_new_members_stay_within_the_share_of_the_bucket(nodes: int) -> None:
    """All nodes of the fleet learn of the new member at the same moment."""
    wait_s = DiscoverySchedule().unvouched_delay_s(nodes, 0.5)
    assert nodes * calls_needed(nodes) / wait_s <= SHARE * REFILL_PER_S * 1.01
    assert wait_s <= interval_s(nodes)


def test_a_throttled_fleet_slows_down_and_recovers_by_halves() -> None:
    reads = DiscoverySchedule()
    assert [reads.retry_delay_s(10, 0.5) for _ in range(6)] == [60.0, 120.0, 240.0, 480.0, 480.0, 480.0]
    assert [reads.next_delay_s(10, 0.5) for _ in range(5)] == [240.0, 120.0, 60.0, 30.0, 30.0]


def test_a_fleet_slows_down_while_another_client_empties_the_bucket() -> None:
    """All calls refused for ten minutes: the fleet's own rate falls to a few percent of the usual."""
    chance, reads = random.Random(3).random, [DiscoverySchedule() for _ in range(200)]
    heap = [(interval_s(200) * chance(), number) for number in range(200)]
    heapq.heapify(heap)
    listed = []
    while heap[0][0] < 600:
        at, number = heapq.heappop(heap)
        listed.append(at)
        heapq.heappush(heap, (at + reads[number].retry_delay_s(200, chance()), number))
    first, last = (sum(low <= at < low + 60 for at in listed) for low in (0, 540))
    assert last < first / 4


@given(st.integers(1, 20_000), st.lists(st.booleans(), max_size=30), st.floats(0, 0.999))
def test_waits_are_never_too_short_nor_endless(nodes: int, outcomes: list[bool], chance: float) -> None:
    reads = DiscoverySchedule()
    assert 0 <= reads.first_delay_s(chance) < FIRST_READ_WITHIN_S
    for succeeded in outcomes:
        wait_s = reads.next_delay_s(nodes, chance) if succeeded else reads.retry_delay_s(nodes, chance)
        assert wait_s >= (interval_s(nodes) / 2 if nodes > 1 else 1.0)
        assert wait_s <= 1.5 * MAX_BACKED_OFF * interval_s(nodes)
