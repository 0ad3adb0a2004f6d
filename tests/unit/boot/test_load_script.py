"""load.sh: the number of requests in flight, for automatic scaling."""

from __future__ import annotations

from pathlib import Path

import pytest

from node_agent.core.openai.routes import required_scope
from stacks.constructs.artifact import ROOT
from tests.unit.boot.conftest import Instance


def test_the_number_of_requests_in_flight_is_published(instance: Instance) -> None:
    instance.answers("curl", """printf '{"server_load":4}'""")
    assert instance.run("load.sh").returncode == 0
    (call,) = [call for call in instance.calls if call.startswith("aws")]
    assert "--namespace Synkti --metric-name InFlightRequests" in call
    assert "--value 4 " in call
    assert call.endswith("--dimensions AutoScalingGroupName=synkti-fleet")


@pytest.mark.parametrize("answer", ["exit 7", "printf '{}'", """printf '{"server_load":null}'""", "printf '<html>'"])
def test_nothing_is_published_without_a_value(answer: str, instance: Instance) -> None:
    instance.answers("curl", answer)
    assert instance.run("load.sh").returncode != 0
    assert not any(call.startswith("aws") for call in instance.calls)


def test_the_published_number_exists_in_the_agent_and_needs_no_key() -> None:
    assert '"server_load"' in (ROOT / "node_agent/runtime/client_api/node_routes.py").read_text()
    assert '/load"' in Path(ROOT / "stacks/boot/load.sh").read_text()
    assert required_scope("/load") is None
