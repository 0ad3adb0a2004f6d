"""What `make run` prints of a record and of the certificate, from values."""

from __future__ import annotations

from local.certificate import Output, StreamOutcome, build_certificate
from local.demo.report import certificate_lines
from local.demo.timeline import Step, steps_by_cause, tag_changes
from node_agent.contract.table_schema import TimelineStep
from node_agent.contract.tags import DEADLINE_TAG, STATE_TAG

AT = 1_800_000_000.0


def test_a_record_is_in_the_order_of_causes_without_milliseconds_that_nobody_measured() -> None:
    timeline = [
        TimelineStep("terminated", "eventbridge", AT + 26),
        TimelineStep("notice-seen", "imds", AT + 26.26),
        TimelineStep("interruption-notice", "eventbridge", AT + 26),
        TimelineStep("drained", "agent", AT + 30.5),
        TimelineStep("of-tomorrow", "agent", AT + 1),
    ]
    assert steps_by_cause(timeline) == [
        Step("08:00:26", "interruption-notice", "eventbridge"),
        Step("08:00:26.260", "notice-seen", "imds"),
        Step("08:00:30.500", "drained", "agent"),
        Step("08:00:26", "terminated", "eventbridge"),
        Step("08:00:01.000", "of-tomorrow", "agent"),
    ]


def test_the_tags_are_shown_as_changes_of_the_state() -> None:
    draining = {STATE_TAG: "draining", DEADLINE_TAG: "2026-11-30T13:31:34.505Z", "SynktiKey": "x"}
    ready = {STATE_TAG: "ready", "SynktiKey": "x"}
    tags = [(AT, ready), (AT + 1, {**ready, "SynktiKey": "y"}), (AT + 2, draining), (AT + 3, {})]
    assert [text for _, text in tag_changes(tags)] == [
        "state ready",
        "state draining, deadline 13:31:34",
        "no state: it removed its tags",
    ]


def outcome(kind: str, pause_ms: float, delivered: tuple[int, ...] = (1, 2, 3)) -> StreamOutcome:
    return StreamOutcome(kind, Output((1, 2, 3), "abc"), Output(delivered, "abc"), kind, pause_ms)


def test_the_certificate_is_four_lines() -> None:
    kinds = {"notice": 1, "sigkill": 1, "entry-sigkill": 1}
    streams = [outcome("notice", 43.2), outcome("sigkill", 81.0), outcome("entry-sigkill", 180.0)]
    lines = certificate_lines(build_certificate("sim", None, kinds, streams, 60.0), (1, 3, "broke"), "out/c.json")
    assert lines == [
        "KEPT: an interruption costs a client a pause, never a token",
        "3 streams, 3 interruptions: 9 tokens, 0 lost, 0 duplicated, 0 errors (plain vLLM lost 2 of 3)",
        "pauses: 43 ms (notice), 81 ms (SIGKILL of the engine's node), 180 ms (SIGKILL of the client's node)",
        "3 of 3 SHA-256 chains equal the uninterrupted answer's: out/c.json",
    ]


def test_a_lost_token_breaks_it() -> None:
    document = build_certificate("sim", None, {"notice": 1}, [outcome("notice", 43.2, (1, 3))], 60.0)
    lines = certificate_lines(document, None, "c.json")
    assert lines[0].startswith("BROKEN")
    assert "1 lost" in lines[1]
