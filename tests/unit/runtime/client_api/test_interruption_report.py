"""The report of a stream's interruptions: once each, from the first loss to the first event behind it."""

from __future__ import annotations

from node_agent.runtime.client_api.interruption_report import InterruptionReport
from node_agent.runtime.common.metrics import Metrics

SAYS = b": synkti continued on i-2 after reset on i-0, pause 1250.0 ms\n"


def counted(metrics: Metrics, code: str) -> float:
    return float(metrics.continuations.labels(code)._value.get())


def test_an_interruption_is_reported_once_with_its_whole_pause() -> None:
    metrics = Metrics()
    report = InterruptionReport("s", metrics, wants_comments=True)
    report.on_interrupted("i-0", "reset", 10.0)
    report.on_interrupted("i-1", "refused", 11.0)
    assert report.on_continued("i-2", 11.25, has_begun=True) == SAYS
    assert report.pending is None
    assert report.on_continued("i-2", 12.0, has_begun=True) == b""
    assert (counted(metrics, "reset"), counted(metrics, "refused")) == (1, 0)


def test_a_client_without_comments_is_counted_too() -> None:
    metrics = Metrics()
    report = InterruptionReport("s", metrics, wants_comments=False)
    report.on_interrupted("i-0", "reset", 10.0)
    assert report.on_continued("i-2", 11.25, has_begun=True) == b""
    assert counted(metrics, "reset") == 1


def test_a_stream_without_an_event_was_not_interrupted() -> None:
    metrics = Metrics()
    report = InterruptionReport("s", metrics, wants_comments=True)
    report.on_interrupted("i-0", "reset", 10.0)
    assert report.on_continued("i-2", 11.25, has_begun=False) == b""
    assert report.pending is None
    assert counted(metrics, "reset") == 0
