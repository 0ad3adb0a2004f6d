"""load.sh: the number of requests in flight, for automatic scaling."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.boot.conftest import ROOT, Instance


def test_the_number_of_requests_in_flight_is_published(instance: Instance) -> None:
    metrics = "# HELP synkti_engine_requests Requests\\nsynkti_streams_open 9.0\\nsynkti_engine_requests 4.0\\n"
    instance.answers("curl", f'printf "{metrics}"')
    assert instance.run("load.sh").returncode == 0
    (call,) = [call for call in instance.calls if call.startswith("aws")]
    assert "--namespace Synkti --metric-name InFlightRequests" in call
    assert "--value 4.0" in call
    assert call.endswith("--dimensions AutoScalingGroupName=synkti-fleet")


def test_without_the_metric_nothing_is_published_and_the_unit_fails(instance: Instance) -> None:
    instance.answers("curl", 'printf "synkti_streams_open 9.0\\n"')
    assert instance.run("load.sh").returncode != 0
    assert not any(call.startswith("aws") for call in instance.calls)


@pytest.mark.parametrize("status", [7, 22, 28])
def test_an_agent_that_does_not_answer_is_no_failure_of_the_unit(status: int, instance: Instance) -> None:
    """It starts, or refuses, or takes too long; other units look after it."""
    instance.answers("curl", f"exit {status}")
    done = instance.run("load.sh")
    assert (done.returncode, "the agent does not answer" in done.stdout) == (0, True), done
    assert not any(call.startswith("aws") for call in instance.calls)


def test_the_published_metric_exists_in_the_agent() -> None:
    assert '"synkti_engine_requests"' in (ROOT / "node_agent/runtime/common/metrics.py").read_text()
    assert "synkti_engine_requests" in Path(ROOT / "stacks/boot/load.sh").read_text()
