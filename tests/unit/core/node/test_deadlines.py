"""Test a notice's two minutes, whatever the clocks show: bounded from its first read, on virtual time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node_agent.contract.aws_events import InterruptionNotice
from node_agent.contract.states import NodeState
from node_agent.core.node.lifecycle import (
    ClockOff,
    ClockRight,
    CloseClients,
    EngineLost,
    EngineReady,
    Event,
    Lifecycle,
    MoveStreams,
    NoticeSeen,
    Publish,
    RebalanceSeen,
    Retire,
    TermRequested,
    Tick,
    bounded_deadline,
    service_status,
    to_local_time,
)

T0 = 1_800_000_000.0


@pytest.mark.parametrize("skew_s", [-180.0, -3600.0, 130.0, 1e9, -1e9, 0.0])
def test_a_notice_leaves_its_two_minutes_whatever_the_local_clock_shows(skew_s: float) -> None:
    """EC2 terminates the instance 120 s after the notice, whose deadline is by EC2's clock."""
    now = T0 + skew_s
    machine = Lifecycle()
    machine.handle(EngineReady(now - 100))
    effects = machine.handle(NoticeSeen(now, T0 + 120))
    assert effects[1] == MoveStreams(now + 120)
    assert machine.handle(Tick(now + 114, 1)) == (MoveStreams(now + 120),)
    assert machine.handle(Tick(now + 115, 1)) == (CloseClients(),)
    assert isinstance(machine.handle(Tick(now + 117, 1))[-1], Retire)


@pytest.mark.parametrize("absurd", [0.0, -1.0, float("inf"), float("-inf"), float("nan"), T0 - 1, T0 + 121, 4e18])
def test_an_impossible_deadline_leaves_two_minutes_from_the_first_poll(absurd: float) -> None:
    machine = Lifecycle()
    machine.handle(EngineReady(T0 - 100))
    assert machine.handle(NoticeSeen(T0, absurd))[1] == MoveStreams(T0 + 120)
    assert machine.handle(NoticeSeen(T0 + 60, absurd)) == (), "the first look counts, not the last"
    assert machine.handle(NoticeSeen(T0 + 60, T0 + 180)) == ()
    assert machine.handle(NoticeSeen(T0 + 60, T0 + 90))[1] == MoveStreams(T0 + 90)


@given(st.floats(), st.floats(-1e9, 1e9))
def test_no_notice_leaves_more_than_two_minutes_or_none_at_all(deadline: float, seen_at: float) -> None:
    assert seen_at < bounded_deadline(deadline, seen_at, seen_at) <= seen_at + 120


@pytest.mark.parametrize("skew_s", [-180.0, 110.0, 130.0, 60.0])
def test_a_notice_with_its_senders_time_is_measured_by_that_clock(skew_s: float) -> None:
    """IMDS sends a Date. Half of the two minutes are over: a node whose clock is off detects that, too."""
    now = T0 + skew_s
    assert to_local_time(InterruptionNotice(T0 + 60, "terminate", as_of=T0), now) == now + 60


def test_agreeing_clocks_keep_a_deadline_and_a_past_one_leaves_a_moment() -> None:
    assert to_local_time(InterruptionNotice(T0 + 60.4, "stop", as_of=T0), T0 + 0.9) == T0 + 60.4
    assert to_local_time(InterruptionNotice(T0 + 60.4, "stop"), T0 + 500) == T0 + 60.4
    assert to_local_time(InterruptionNotice(T0 - 5, "stop", as_of=T0), T0) == T0 + 1


def test_a_node_is_serving_while_it_takes_requests_or_has_streams() -> None:
    assert service_status(NodeState.READY, 0) == "serving: ready"
    assert service_status(NodeState.AT_RISK, 0).startswith("serving")
    assert service_status(NodeState.DRAINING, 1) == "serving: draining"
    assert service_status(NodeState.STARTING, 3).startswith("serving"), "its clients' streams continue elsewhere"
    assert not service_status(NodeState.STARTING, 0).startswith("serving")
    assert not service_status(NodeState.DRAINING, 0).startswith("serving")


def test_a_clock_that_is_off_puts_a_node_at_risk_until_it_is_right_again() -> None:
    machine = Lifecycle()
    events: list[Event] = [EngineReady(1), ClockOff(2), ClockOff(3), EngineLost(4, "x"), EngineReady(5), ClockRight(6)]
    steps = [effect for event in events for effect in machine.handle(event) if isinstance(effect, Publish)]
    assert [(step.step, step.state) for step in steps] == [
        ("ready", NodeState.READY),
        ("clock-off", NodeState.AT_RISK),
        ("engine-lost", NodeState.STARTING),
        ("ready", NodeState.AT_RISK),
        ("clock-right", NodeState.READY),
    ]


def test_a_right_clock_clears_no_rebalance_recommendation_and_ends_no_drain() -> None:
    machine = Lifecycle()
    for event in (EngineReady(1), RebalanceSeen(2), ClockOff(3), ClockRight(4)):
        machine.handle(event)
    assert machine.state is NodeState.AT_RISK
    machine.handle(TermRequested(5, 95))
    assert machine.handle(ClockOff(6)) == ()
    assert machine.handle(ClockRight(7)) == ()
    assert machine.state.rank == NodeState.DRAINING.rank
