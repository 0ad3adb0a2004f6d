"""Test the node's pure decisions on virtual time: lifecycle, drain, routing, fleet, signing, backoff, timeouts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node_agent.contract.states import NodeState
from node_agent.core.common.backoff import Backoff
from node_agent.core.common.request_auth import MAX_SKEW_S, RequestVerifier, sign
from node_agent.core.continuation.timeouts import (
    MAX_FIRST_TOKEN_S,
    TokenRate,
    first_token_timeout_s,
    inter_token_timeout_s,
)
from node_agent.core.node.lifecycle import (
    EXIT_DRAINED,
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
)

T0 = 1_000_000.0


# lifecycle


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
    st.builds(EngineGaveUp, st.just(0), st.just("x")),
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


# signing


def test_a_signed_message_is_accepted_once_and_nothing_else_is() -> None:
    verifier = RequestVerifier(b"key")
    stamp = sign(b"key", "POST", "/x", b"body", T0, "n1")
    assert verifier.rejection_reason(None, "POST", "/x", b"body", T0) == "no signature"
    assert verifier.rejection_reason("v1 a b c", "POST", "/x", b"body", T0) == "no signature"
    assert verifier.rejection_reason(stamp, "POST", "/y", b"body", T0) == "wrong signature"
    assert verifier.rejection_reason(stamp, "POST", "/x", b"other", T0) == "wrong signature"
    assert (
        verifier.rejection_reason(sign(b"other", "POST", "/x", b"body", T0, "n2"), "POST", "/x", b"body", T0)
        == "wrong signature"
    )
    assert verifier.rejection_reason(stamp, "POST", "/x", b"body", T0 + MAX_SKEW_S + 1) == "too old or too new"
    assert verifier.rejection_reason(stamp, "POST", "/x", b"body", T0 - MAX_SKEW_S - 1) == "too old or too new"
    assert verifier.rejection_reason(stamp, "POST", "/x", b"body", T0) is None
    assert verifier.rejection_reason(stamp, "POST", "/x", b"body", T0 + 1) == "seen before"


def test_nonces_expire_by_time_and_by_number() -> None:
    verifier = RequestVerifier(b"key", max_nonces=3)
    for i in range(10):
        assert verifier.rejection_reason(sign(b"key", "GET", "/", b"", T0, str(i)), "GET", "/", b"", T0) is None
    assert len(verifier._seen) == len(verifier._order) == 3


# backoff and patience


def test_waits_grow_stay_in_bounds_and_end() -> None:
    backoff = Backoff(first_s=1.0, max_s=8.0, max_attempts=6)
    assert [backoff.wait_s(n, 0.999) for n in (1, 2, 3)] == pytest.approx([1, 2, 4], rel=0.01)
    assert backoff.wait_s(5, 0.0) == 4.0
    assert backoff.wait_s(6, 0.5) is None
    assert Backoff(1.0, 8.0).wait_s(10_000, 0.5) == 6.0


def test_patience_follows_the_engine_within_bounds() -> None:
    assert inter_token_timeout_s(0.02) == 2.0
    assert inter_token_timeout_s(0.5) == 4.0
    assert first_token_timeout_s(0) == 30.0
    assert first_token_timeout_s(100 * 1024 * 1024) == MAX_FIRST_TOKEN_S
    pace = TokenRate()
    for _ in range(500):
        pace.observe(0.1)
    assert pace.time_per_token_s == pytest.approx(0.1)
