"""`python -m node_agent.publish_metrics`: once a minute, from the agent's metrics to CloudWatch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import EndpointConnectionError

from node_agent.contract import names
from node_agent.core.node.promise_metrics import COUNTERS, IN_FLIGHT, PAUSES
from node_agent.publish_metrics import EXIT_CONFIGURATION, LAST, main, publish_once
from node_agent.runtime.common.metrics import Metrics


def agent(broken: int, pause_s: float | None = None) -> str:
    """Return what an agent shows that has broken so many streams, and continued one after `pause_s`."""
    metrics = Metrics()
    metrics.broken.labels("engine_lost").inc(broken)
    metrics.served.set(3)
    if pause_s is not None:
        metrics.pause.observe(pause_s)
    return metrics.exposition().decode()


class CloudWatch:
    """Collects what is published; unavailable as long as `is_away`."""

    def __init__(self) -> None:
        self.data: list[dict[str, Any]] = []
        self.is_away = False

    def put(self, data: list[dict[str, Any]]) -> None:
        if self.is_away:
            raise EndpointConnectionError(endpoint_url="https://monitoring.example.com")
        self.data = data

    def values(self) -> dict[str, object]:
        return {each["MetricName"]: each.get("Value", each.get("Values")) for each in self.data}


def test_the_agent_has_the_metrics_that_are_published() -> None:
    metrics = Metrics()
    metrics.continuations.labels("silence").inc()
    metrics.broken.labels("engine_lost").inc()
    shown = metrics.exposition().decode()
    for name in (*COUNTERS, PAUSES, IN_FLIGHT):
        assert f"\n{name}" in shown


def test_a_turn_that_failed_is_made_up_for_by_the_next(tmp_path: Path) -> None:
    cloudwatch = CloudWatch()
    assert publish_once(agent(1), tmp_path, "synkti", cloudwatch.put) is None
    assert cloudwatch.values() == {names.IN_FLIGHT_METRIC: 3.0, names.BROKEN_METRIC: 1.0}
    cloudwatch.is_away = True
    fault = publish_once(agent(3), tmp_path, "synkti", cloudwatch.put)
    assert fault is not None
    assert fault.startswith("CloudWatch: Could not connect")
    cloudwatch.is_away = False
    assert publish_once(agent(4, pause_s=0.3), tmp_path, "synkti", cloudwatch.put) is None
    assert cloudwatch.values() == {
        names.IN_FLIGHT_METRIC: 3.0,
        names.BROKEN_METRIC: 3.0,
        names.PAUSE_METRIC: [0.5],
    }


@pytest.mark.parametrize("text", ["", "synkti_engine_requests none\n", "{{{", "synkti_engine_requests{a=\n"])
def test_nothing_is_published_without_the_load(text: str, tmp_path: Path) -> None:
    cloudwatch = CloudWatch()
    assert publish_once(text, tmp_path, "synkti", cloudwatch.put) is not None
    assert (cloudwatch.data, list(tmp_path.iterdir())) == ([], [])


def test_a_damaged_file_of_what_was_published_is_none(tmp_path: Path) -> None:
    (tmp_path / LAST).write_text('{"totals": 7}')
    cloudwatch = CloudWatch()
    assert publish_once(agent(1), tmp_path, "synkti", cloudwatch.put) is None
    assert cloudwatch.values()[names.BROKEN_METRIC] == 1.0


def test_a_folder_that_takes_nothing_is_one_sentence(tmp_path: Path) -> None:
    cloudwatch = CloudWatch()
    fault = publish_once(agent(1), tmp_path / "missing", "synkti", cloudwatch.put)
    assert fault is not None
    assert fault.startswith("what was published cannot be noted")


def test_missing_variables_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main({}) == EXIT_CONFIGURATION
    assert capsys.readouterr().err == "not set: RUNTIME_DIRECTORY, SYNKTI_CLUSTER\n"


def test_an_agent_that_is_away_is_one_line_and_no_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    environ = {"SYNKTI_CLUSTER": "synkti", "RUNTIME_DIRECTORY": str(tmp_path), "SYNKTI_ADMIN": "http://127.0.0.1:1"}
    assert main(environ) == 0
    assert capsys.readouterr().err.count("\n") == 1
