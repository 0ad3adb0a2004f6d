"""Test the errors that end streams: their codes, statuses, and what they name."""

from __future__ import annotations

from node_agent.contract.errors import ContinuationImpossible, RequestRejected
from node_agent.core.failure.attempts import MAX_ENGINES, Attempts
from node_agent.core.failure.attribution import classify_answer, classify_loss
from node_agent.core.failure.error_body import BodyKind
from node_agent.core.failure.loss import LossReason
from node_agent.core.failure.verdict import Origin, Verdict
from node_agent.core.streams.stream_error import (
    StreamError,
    continuation_impossible,
    exhausted,
    handed_off,
    rejected,
    taken_over,
)

BUSY = classify_answer(Origin.ENGINE, 503, BodyKind.ERROR)
LOST = classify_loss(Origin.ENGINE, LossReason.RESET)


def after(*verdicts: Verdict) -> StreamError:
    attempts = Attempts("/v1/completions")
    for verdict in verdicts:
        attempts.record_failure("i-1", verdict)
    return exhausted(attempts)


def test_without_any_attempt_no_node_was_ready() -> None:
    assert after() == StreamError("no_ready_node", "No node is ready to continue this request.")


def test_below_the_bound_the_losses_are_named_with_the_missing_node() -> None:
    error = after(LOST)
    assert (error.code, error.status) == ("no_ready_node", 503)
    assert "after 1 engine (reset) lost it" in error.message


def test_at_the_bound_the_engines_are_lost() -> None:
    error = after(*[LOST] * MAX_ENGINES)
    assert (error.code, error.status) == ("engine_lost", 503)
    assert "3 engines (reset, reset, reset)" in error.message


def test_engines_without_room_are_a_429_at_the_bound_too() -> None:
    for count in (1, MAX_ENGINES):
        error = after(*[BUSY] * count)
        assert (error.code, error.status) == ("fleet_full", 429)


def test_a_handoff_names_where_to_resume_in_the_given_order() -> None:
    assert handed_off(["i-2:2", "i-1:2"]).message.endswith("(its X-Synkti-Stream) at: i-2:2, i-1:2.")
    assert handed_off([]).message.endswith("at: none.")


def test_a_stream_that_was_taken_over_conflicts() -> None:
    assert (taken_over("s").code, taken_over("s").status) == ("stream_taken", 409)


def test_other_errors_keep_their_reasons() -> None:
    assert rejected(RequestRejected(422, "c", "m")) == StreamError("c", "m", 422)
    error = continuation_impossible(ContinuationImpossible("a seed"))
    assert error == StreamError("continuation_impossible", "The engine was lost, and a seed rules out a continuation.")
