"""The group that waits for a drain: one suite over the adapter and its twin.

moto and the embedded AWS keep no lifecycle actions, so the adapter speaks to botocore's stubber, which checks every
request against EC2 Auto Scaling's own model and answers as EC2 Auto Scaling does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from botocore.stub import Stubber

from node_agent.adapters.auto_scaling import AutoScaling
from node_agent.contract.errors import StoreUnavailable
from node_agent.ports import Identity, ScalingGroup
from node_agent.testing.fakes import MemoryMetadata, MemoryScalingGroup

NODE = "i-0123456789abcdef0"
ACTION = {
    "LifecycleHookName": "drained",
    "AutoScalingGroupName": "synkti-fleet",
    "LifecycleActionResult": "CONTINUE",
    "InstanceId": NODE,
}
NOT_WAITING = f"No active Lifecycle Action found with instance ID {NODE}"


@pytest.fixture
def stub() -> Iterator[tuple[Any, Stubber]]:
    client = boto3.client(
        "autoscaling", region_name="us-east-1", aws_access_key_id="test", aws_secret_access_key="test"
    )
    with Stubber(client) as stubber:
        yield client, stubber
        stubber.assert_no_pending_responses()


@pytest.fixture(params=["memory", "autoscaling"])
def group(request: pytest.FixtureRequest) -> ScalingGroup:
    """Waits for NODE, once."""
    if request.param == "memory":
        return MemoryScalingGroup({NODE})
    client, stubber = request.getfixturevalue("stub")
    stubber.add_response("complete_lifecycle_action", {}, ACTION)
    stubber.add_client_error("complete_lifecycle_action", "ValidationError", NOT_WAITING, 400, expected_params=ACTION)
    return AutoScaling(client, "synkti-fleet")


def test_a_lifecycle_action_is_completed_once_and_then_not_waiting(group: ScalingGroup) -> None:
    assert asyncio.run(group.complete_termination(NODE)) is True
    assert asyncio.run(group.complete_termination(NODE)) is False


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("Throttling", "Rate exceeded"),
        ("AccessDenied", "not authorized"),
        ("ValidationError", "AutoScalingGroup name not found"),
    ],
)
def test_any_other_refusal_is_a_failure(stub: tuple[Any, Stubber], code: str, message: str) -> None:
    client, stubber = stub
    stubber.add_client_error("complete_lifecycle_action", code, message, 400)
    with pytest.raises(StoreUnavailable, match=message):
        asyncio.run(AutoScaling(client, "synkti-fleet").complete_termination(NODE))


def test_in_memory_metadata_report_a_termination_that_a_test_sets() -> None:
    metadata = MemoryMetadata(Identity(NODE, "us-east-1a", "us-east-1", "g5.xlarge", "10.0.0.1"))
    assert asyncio.run(metadata.termination_requested()) is False
    metadata.is_terminating = True
    assert asyncio.run(metadata.termination_requested()) is True
