"""The counts of continuity: what a node knows of its streams, and no figure that it cannot know."""

from __future__ import annotations

from node_agent.core.snapshot.continuity import MAX_PAUSES, Continuity


def test_a_node_that_has_served_nothing_has_no_pauses() -> None:
    counts = Continuity(5.0).to_json()
    assert counts["pause_ms"] is None
    assert counts["continued"] == {}
    assert counts["since"] == 5.0


def test_counts_by_reason() -> None:
    continuity = Continuity(0.0)
    continuity.begun, continuity.resumed, continuity.complete, continuity.left = 5, 1, 3, 1
    for code, pause_s in (("reset", 0.1), ("reset", 0.3), ("handoff", 0.2)):
        continuity.count_continued(code, pause_s)
    continuity.count_ended("engine_lost")
    counts = continuity.to_json()
    assert counts["streams"] == {
        "begun": 5, "resumed": 1, "complete": 3, "client_left": 1, "ended_with_error": {"engine_lost": 1},
    }  # fmt: skip
    assert counts["continued"] == {"reset": 2, "handoff": 1}
    assert counts["pause_ms"] == {"count": 3, "p50": 200.0, "p95": 300.0, "p99": 300.0, "longest": 300.0}


def test_percentiles_are_of_the_newest_pauses() -> None:
    continuity = Continuity(0.0)
    continuity.count_continued("reset", 60.0)
    for _ in range(MAX_PAUSES):
        continuity.count_continued("reset", 0.1)
    counts = continuity.to_json()
    assert counts["pause_ms"]["count"] == MAX_PAUSES
    assert counts["pause_ms"]["longest"] == 100.0
    assert counts["continued"] == {"reset": MAX_PAUSES + 1}


def test_it_claims_no_count_of_lost_or_repeated_tokens() -> None:
    assert not {"lost", "duplicated"} & {*Continuity(0.0).to_json(), *Continuity(0.0).to_json()["streams"]}
