"""Test a drain's record."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from node_agent.contract.drain_record import DrainRecord, DrainStep, DrainStepName, drain_from_item
from node_agent.core.drain.timeline import MAX_STEPS, DrainTimeline

TIMES = st.integers(0, 2_000_000_000_000).map(lambda ms: ms / 1000)
RECORDS = st.builds(
    DrainRecord,
    st.text(max_size=8),
    st.integers(0, 2**42),
    st.sampled_from(["notice-seen", "termination-requested"]),
    TIMES,
    st.integers(0, 2**33),
    st.lists(st.builds(DrainStep, st.text(max_size=8), TIMES, st.none() | st.integers(0, 99)), max_size=4).map(tuple),
)


def test_nothing_is_recorded_before_a_drain() -> None:
    log = DrainTimeline("i-1", 7)
    log.record_step(DrainStepName.RETIRED, 1.0)
    log.add_count(DrainStepName.HANDED_OFF, 1.0, 2)
    assert log.record is None


def test_a_step_is_recorded_once_and_counts_add_up_with_their_last_time() -> None:
    log = DrainTimeline("i-1", 7)
    log.begin("notice-seen", 9.0, 10.0, 130.0, 999)
    log.record_step(DrainStepName.PLANNED, 11.0, 3)
    log.record_step(DrainStepName.PLANNED, 12.0, 1)
    log.add_count(DrainStepName.HANDED_OFF, 13.0, 1)
    log.add_count(DrainStepName.HANDED_OFF, 14.0, 2)
    log.add_count(DrainStepName.HANDED_OFF, 15.0, 0)
    assert log.record is not None
    assert [(step.step, step.at, step.count) for step in log.record.steps] == [
        ("requested", 9.0, None),
        ("cordoned", 10.0, None),
        ("planned", 11.0, 3),
        ("handed-off", 14.0, 3),
    ]


def test_an_earlier_deadline_replaces_the_record_within_a_bound() -> None:
    log = DrainTimeline("i-1", 7)
    for number in range(MAX_STEPS):
        log.begin("notice-seen", 9.0, 10.0, 130.0 - number, 999)
    assert log.record is not None
    assert log.record.deadline == 130.0 - (MAX_STEPS - 1)
    assert len(log.record.steps) <= MAX_STEPS


@given(RECORDS)
def test_a_record_round_trips_through_the_table(record: DrainRecord) -> None:
    assert drain_from_item(record.to_item()) == record
