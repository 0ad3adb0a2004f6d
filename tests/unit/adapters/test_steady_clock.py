"""The agent's clock counts on, whatever the wall clock does."""

from __future__ import annotations

import time

import pytest

from node_agent.adapters.steady_clock import SteadyClock


class Clocks:
    def __init__(self) -> None:
        self.wall = 1_800_000_000.0
        self.elapsed = 50.0

    def pass_time(self, seconds: float) -> None:
        self.wall += seconds
        self.elapsed += seconds


@pytest.mark.parametrize("jump_s", [3600.0, -180.0, -86_400.0])
def test_a_jump_of_the_wall_clock_changes_nothing_and_is_measured(jump_s: float) -> None:
    clocks = Clocks()
    steady = SteadyClock(lambda: clocks.wall, lambda: clocks.elapsed)
    clocks.pass_time(10)
    clocks.wall += jump_s
    assert steady() == 1_800_000_010.0
    assert steady.wall_ahead_s() == jump_s
    clocks.pass_time(5)
    assert steady() == 1_800_000_015.0


def test_it_begins_with_the_time_of_day_and_never_goes_back() -> None:
    steady = SteadyClock()
    first = steady()
    assert abs(first - time.time()) < 5
    assert steady() >= first
