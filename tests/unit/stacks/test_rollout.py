"""How long an update of a fleet may take."""

from __future__ import annotations

import pytest

from stacks.rollout import batches, longest_minutes, max_healthy_percent
from stacks.settings import FleetSettings


@pytest.mark.parametrize(
    ("nodes", "healthy", "expected"),
    [
        (1, 100, 1),
        (3, 100, 3),
        (9, 100, 9),
        (10, 100, 10),
        (20, 100, 10),
        (25, 100, 13),
        (100, 100, 10),
        (10, 90, 10),
        (10, 50, 2),
        (9, 50, 3),
        (3, 50, 3),
        (100, 1, 2),
        (1, 1, 1),
    ],
)
def test_a_fleet_is_replaced_in_batches(nodes: int, healthy: int, expected: int) -> None:
    assert batches(FleetSettings(nodes=nodes, refresh_healthy_percent=healthy)) == expected


def test_the_time_is_that_of_all_batches_one_after_another() -> None:
    assert longest_minutes(FleetSettings(nodes=9, ready_within_s=600)) == 30 + 9 * 13
    assert longest_minutes(FleetSettings(nodes=9, ready_within_s=600, bake_image=True)) == 150 + 9 * 13
    scaled = FleetSettings(nodes=1, scale_target=8, max_nodes=10, ready_within_s=600)
    assert longest_minutes(scaled) == 30 + 10 * 13, "as many nodes as there may be"


def test_new_nodes_come_first_where_all_of_the_fleet_serves() -> None:
    assert max_healthy_percent(FleetSettings()) == 110
    assert max_healthy_percent(FleetSettings(refresh_healthy_percent=90)) == 100
