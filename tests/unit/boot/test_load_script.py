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


@pytest.mark.parametrize("answer", ["exit 7", 'printf "synkti_streams_open 9.0\\n"'])
def test_nothing_is_published_without_a_value(answer: str, instance: Instance) -> None:
    instance.answers("curl", answer)
    assert instance.run("load.sh").returncode != 0
    assert not any(call.startswith("aws") for call in instance.calls)


def test_the_published_metric_exists_in_the_agent() -> None:
    assert '"synkti_engine_requests"' in (ROOT / "node_agent/runtime/common/metrics.py").read_text()
    assert "synkti_engine_requests" in Path(ROOT / "stacks/boot/load.sh").read_text()
