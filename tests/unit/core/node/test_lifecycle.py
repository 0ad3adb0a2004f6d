"""Test the lifecycle on virtual time: states, a notice's two minutes whatever the clocks show, a clock that is off."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node_agent.contract.aws_events import InterruptionNotice
from node_agent.contract.states import NodeState
from node_agent.core.node.lifecycle import (
    EXIT_DRAINED,
    ClockOff,
    ClockRight,
    CloseClients,
    Effect,
    EngineGaveUp,
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


# states


def live(*events: Event) -> tuple[Lifecycle, list[Effect]]:
    machine = Lifecycle()
    return machine, [effect for event in events for effect in machine.handle(event)]


def states(effects: list[Effect]) -> list[NodeState]:
    return [effect.state for effect in effects if isinstance(effect, Publish)]


def test_a_node_is_ready_only_while_its_engine_is() -> None:
    machine, effects = live(EngineReady(1), EngineLost(2, "killed"), EngineReady(3))
    assert states(effects) == [NodeState.READY, NodeState.STARTING, NodeState.READY]
    assert machine.state is NodeState.READY


def test_a_notice_cordons_first_and_moves_streams_second() -> None:
    _, effects = live(EngineReady(1), NoticeSeen(2, 122))
    assert effects[1:] == [Publish(NodeState.DRAINING, "notice-seen", "imds", 2, 122), MoveStreams(122)]


def test_a_drained_node_retires_at_once_and_with_success() -> None:
    _, effects = live(EngineReady(1), NoticeSeen(2, 122), Tick(3, 1), Tick(4, 0), Tick(5, 0))
    assert effects[3:] == [MoveStreams(122), CloseClients(), Retire(0, "drained")]


def test_a_node_behind_a_load_balancer_stays_for_deregistration_within_its_deadline() -> None:
    machine = Lifecycle(linger_s=30.0)
    for event in (EngineReady(T0), NoticeSeen(T0, T0 + 120)):
        machine.handle(event)
    assert machine.handle(Tick(T0 + 29.0, 0)) == (MoveStreams(T0 + 120),)
    assert machine.handle(Tick(T0 + 30.0, 1)) == (MoveStreams(T0 + 120),)
    assert machine.handle(Tick(T0 + 31.0, 0))[-1] == Retire(EXIT_DRAINED, "drained")
    hasty = Lifecycle(linger_s=30.0)
    for event in (EngineReady(T0), NoticeSeen(T0, T0 + 10)):
        hasty.handle(event)
    assert hasty.handle(Tick(T0 + 5.5, 0))[-1] == Retire(EXIT_DRAINED, "drained")


def test_clients_are_closed_before_the_deadline_and_open_streams_do_not_delay_it() -> None:
    _, effects = live(EngineReady(1), NoticeSeen(2, 122), Tick(117.5, 2), Tick(118, 2), Tick(119.5, 2))
    assert effects[3:] == [CloseClients(), CloseClients(), Retire(0, "the deadline, with 2 streams open")]


def test_a_rebalance_recommendation_puts_a_node_at_risk_also_before_it_is_ready() -> None:
    _, effects = live(EngineReady(1), RebalanceSeen(2), RebalanceSeen(3))
    assert states(effects) == [NodeState.READY, NodeState.AT_RISK]
    _, effects = live(RebalanceSeen(1), EngineReady(2))
    assert states(effects) == [NodeState.AT_RISK]


def test_only_a_shorter_deadline_replaces_one() -> None:
    machine, effects = live(EngineReady(1), TermRequested(2, 92), NoticeSeen(3, 123), NoticeSeen(4, 50))
    assert machine.deadline == 50
    assert [e.step for e in effects if isinstance(e, Publish)] == ["ready", "termination-requested", "notice-seen"]


def test_a_draining_node_never_becomes_ready_again() -> None:
    machine, effects = live(TermRequested(1, 91), EngineReady(2), RebalanceSeen(3), EngineLost(4, "x"))
    assert machine.state is NodeState.DRAINING
    assert states(effects) == [NodeState.DRAINING]


def test_an_engine_that_cannot_be_restarted_ends_the_node_for_good() -> None:
    machine, effects = live(EngineGaveUp(1, "6 times"), NoticeSeen(2, 3), Tick(4, 0))
    assert machine.state is NodeState.GONE
    assert effects == [CloseClients(), Retire(69, "the engine cannot be kept running: 6 times")]


EVENTS = st.one_of(
    st.builds(EngineReady, st.just(0)),
    st.builds(EngineLost, st.just(0), st.just("x")),
    st.builds(EngineGaveUp, st.just(0), st.just("x"), st.booleans()),
    st.builds(NoticeSeen, st.just(0), st.integers(1, 200)),
    st.builds(RebalanceSeen, st.just(0)),
    st.builds(TermRequested, st.just(0), st.integers(1, 200)),
    st.builds(Tick, st.integers(0, 200), st.integers(0, 2)),
)


@given(st.lists(EVENTS, max_size=30))
def test_no_sequence_of_events_undoes_a_drain_or_extends_its_deadline(events: list[Event]) -> None:
    machine = Lifecycle()
    for event in events:
        before, deadline = machine.state, machine.deadline
        effects = machine.handle(event)
        if before in (NodeState.DRAINING, NodeState.GONE):
            assert machine.state.rank >= before.rank
        if before is NodeState.GONE:
            assert effects == ()
        if deadline is not None:
            assert machine.deadline is not None
            assert machine.deadline <= deadline


# deadlines and clocks


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
