"""Test losses: the line that one takes between nodes, and what is kept of a line that is unknown."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node_agent.contract.states import NodeState
from node_agent.core.failure.attribution import classify_loss
from node_agent.core.failure.loss import (
    DEATHS,
    MAX_TEXT_CHARS,
    EngineDeath,
    Handoff,
    Loss,
    LossReason,
    UnknownLoss,
    not_serving,
)
from node_agent.core.failure.report import format_loss, parse_loss
from node_agent.core.failure.verdict import Origin

LINES: list[tuple[Loss, str]] = [
    (Handoff(), "handoff"),
    (Handoff("i-0123"), "handoff to i-0123"),
    (EngineDeath(LossReason.ENGINE_DIED, "3", alone=True), "engine-died 3 alone"),
    (EngineDeath(LossReason.ENGINE_DIED, "3", alone=False), "engine-died 3 beside"),
    (EngineDeath(LossReason.ENGINE_KILLED, "0", alone=True), "engine-killed 0 alone"),
    (EngineDeath(LossReason.ENGINE_STUCK, "7", alone=False), "engine-stuck 7 beside"),
]


@pytest.mark.parametrize(
    ("loss", "line"), LINES + [(each, each.value) for each in LossReason if each is not LossReason.HANDOFF]
)
def test_a_loss_is_the_same_after_its_line(loss: Loss, line: str) -> None:
    assert (format_loss(loss), parse_loss(line)) == (line, loss)


def test_a_reason_that_has_details_needs_none() -> None:
    assert format_loss(LossReason.HANDOFF) == "handoff"
    assert parse_loss("engine-stuck") is LossReason.ENGINE_STUCK


@pytest.mark.parametrize("line", ["handoffs", "engine-died 3", "engine-died 3 perhaps", "reset 3 alone", "Reset", ""])
def test_an_unknown_line_is_kept_for_logs_only(line: str) -> None:
    loss = parse_loss(line)
    assert loss == UnknownLoss(line)
    assert (loss.reason, format_loss(loss)) == (LossReason.OTHER, "other")
    assert repr(line) in str(loss)


@given(st.text() | st.sampled_from([line for _, line in LINES]).flatmap(lambda line: st.text().map(line.__add__)))
def test_what_is_kept_of_any_line_is_bounded(line: str) -> None:
    loss = parse_loss(line)
    assert loss.reason in LossReason
    assert len(format_loss(loss)) <= MAX_TEXT_CHARS + 40
    assert parse_loss(format_loss(loss)).reason is loss.reason
    if isinstance(loss, UnknownLoss):
        assert len(loss.text) <= MAX_TEXT_CHARS


def test_only_an_engine_that_ended_by_itself_crashed() -> None:
    crashed = {reason for reason in DEATHS if EngineDeath(reason, "1", alone=True).crashed}
    assert crashed == {LossReason.ENGINE_DIED}


@pytest.mark.parametrize("state", [state for state in NodeState if not state.takes_requests])
def test_a_node_in_any_state_without_requests_has_a_reason_that_is_no_fault(state: NodeState) -> None:
    assert classify_loss(Origin.ENGINE, not_serving(state)).code == "not-serving"
