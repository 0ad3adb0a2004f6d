"""Test admission: the queue's order and bounds, and what Retry-After promises a rejected request."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node_agent.core.routing import admission as admitting
from node_agent.core.routing.admission import Admission, Rejection, Ticket


def test_requests_that_cannot_be_served_wait_first_come_first_served() -> None:
    admission = Admission()
    assert admission.may_bypass_queue()
    first, second = admission.enqueue(0.0, 0.5), admission.enqueue(0.1, 0.5)
    assert isinstance(first, Ticket)
    assert isinstance(second, Ticket)
    assert not admission.may_bypass_queue()  # nobody overtakes
    assert admission.next == first
    admission.admitted(0.5, first)
    assert admission.next == second
    for _ in range(2):  # the second time there is nothing to take back
        admission.cancel(second)
    assert admission.next_deadline() is None
    assert len(admission) == 0


def test_the_queue_is_bounded_in_number_and_in_time() -> None:
    admission = Admission(max_waiting=3, max_wait_s=10.0)
    tickets = [admission.enqueue(float(number), 0.5) for number in range(3)]
    refused = admission.enqueue(3.0, 0.5)
    assert isinstance(refused, Rejection)
    assert refused.reason == "queue-full"
    assert len(admission) == 3
    assert admission.next_deadline() == 10.0
    assert admission.pop_expired(9.9) == []
    assert admission.pop_expired(11.0) == tickets[:2]
    assert admission.timeout_rejection(11.0, 0.5).reason == "waited-too-long"
    assert len(admission) == 1


def test_retry_after_follows_from_the_admission_rate() -> None:
    admission = Admission(max_waiting=100)
    assert admission.retry_after_s(0.0, 0.5) == admitting.MAX_RETRY_S  # nothing was, ever
    for tick in range(1, 400):
        admission.admitted(tick * 0.1)  # ten a second
    for _ in range(49):
        admission.enqueue(40.0, 0.5)
    assert admission.retry_after_s(40.0, 0.5) == pytest.approx(5.0, rel=0.15)
    assert admission.retry_after_s(40.0, 0.0) < admission.retry_after_s(40.0, 1.0)
    assert admission.retry_after_s(4_000.0, 0.5) == admitting.MAX_RETRY_S
    assert Admission().retry_after_s(0.0, 0.0) >= admitting.MIN_RETRY_S


def test_a_key_retries_after_its_own_requests_and_as_many_of_each_other() -> None:
    admission = Admission(max_waiting=100)
    for tick in range(1, 400):
        admission.admitted(tick * 0.1)  # ten a second
    for _ in range(49):
        admission.enqueue(40.0, 0.5, "large", 10)
    assert admission.retry_after_s(40.0, 0.5, "large") == pytest.approx(5.0, rel=0.15)
    admission.enqueue(40.0, 0.5, "small", 10)
    assert admission.retry_after_s(40.0, 0.5, "small") == admitting.MIN_RETRY_S
    assert admission.timeout_rejection(40.0, 0.5, "small").retry_after_s == admitting.MIN_RETRY_S


def test_a_key_pays_what_its_requests_usually_use_at_most_and_the_rest_afterwards() -> None:
    admission = Admission()
    admission.enqueue(0.0, 0.5, "other", 100)
    first = admission.enqueue(0.0, 0.5, "a", 4_000)
    assert isinstance(first, Ticket)
    assert first.weight == 4_000  # nothing is known of its answers
    admission.admitted(0.0, first)
    admission.used("a", 100, first.weight)
    for weight, paid in ((4_000, 100), (50, 50)):
        ticket = admission.enqueue(1.0, 0.5, "a", weight)
        assert isinstance(ticket, Ticket)
        assert ticket.weight == paid


@given(st.lists(st.tuples(st.sampled_from("arn"), st.floats(0, 5), st.floats(0, 0.999)), max_size=80))
def test_the_queue_stays_within_its_bound_and_retry_delays_are_sane(
    steps: list[tuple[str, float, float]],
) -> None:
    admission, now = Admission(max_waiting=5, max_wait_s=3.0), 0.0
    for kind, wait_s, chance in steps:
        now += wait_s
        if kind == "a":
            answer = admission.enqueue(now, chance)
            if isinstance(answer, Rejection):
                assert admitting.MIN_RETRY_S <= answer.retry_after_s <= admitting.MAX_RETRY_S
        elif kind == "r" and admission.next is not None:
            admission.admitted(now, admission.next)
        else:
            assert all(ticket.deadline <= now for ticket in admission.pop_expired(now))
        assert len(admission) <= 5
