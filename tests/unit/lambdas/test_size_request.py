"""CloudFormation's requests for the fleet's size: compared with the group, and set where it differs."""

from __future__ import annotations

import importlib
from dataclasses import replace
from typing import Any

import boto3
import pytest
from botocore.exceptions import EndpointConnectionError

from lambdas import size_request
from lambdas.size_request import SizeDependencies, handle_request
from node_agent.contract.errors import ConfigurationError
from node_agent.contract.names import auto_scaling_group_name
from tests.unit.lambdas.test_handlers import Context
from tests.unit.lambdas.test_model_request import URL, Sent

GROUP = auto_scaling_group_name("synkti")


def event(kind: str = "Update", nodes: str = "3", **more: str) -> dict[str, Any]:
    properties = {"Minimum": "0", "Maximum": "6", "Nodes": nodes, "Deployment": "7-1", **more}
    return {
        "RequestType": kind,
        "ResponseURL": URL,
        "StackId": "stack/1",
        "RequestId": "request-1",
        "LogicalResourceId": "SizeSize",
        "ResourceProperties": properties,
    }


@pytest.fixture
def dependencies(aws: None) -> SizeDependencies:
    """A group that was stopped."""
    client = boto3.client("autoscaling")
    client.create_launch_configuration(LaunchConfigurationName="l", ImageId="ami-12c6146b", InstanceType="g5.xlarge")
    client.create_auto_scaling_group(
        AutoScalingGroupName=GROUP, LaunchConfigurationName="l", MinSize=0, MaxSize=0, DesiredCapacity=0,
        AvailabilityZones=["us-east-1a"],
    )  # fmt: skip
    return SizeDependencies(GROUP, client, Sent())


def size(dependencies: SizeDependencies) -> tuple[int, int, int]:
    (group,) = dependencies.autoscaling.describe_auto_scaling_groups(AutoScalingGroupNames=[GROUP])["AutoScalingGroups"]
    return group["MinSize"], group["MaxSize"], group["DesiredCapacity"]


def statuses(dependencies: SizeDependencies) -> list[str]:
    assert isinstance(dependencies.send, Sent)
    return [response["Status"] for _, response in dependencies.send.responses]


def test_a_stopped_fleet_gets_the_size_of_the_settings(dependencies: SizeDependencies) -> None:
    assert handle_request(event(), dependencies) == {
        "action": "set",
        "reason": f"{GROUP} keeps 3 nodes, was 0",
    }
    assert size(dependencies) == (0, 6, 3)
    assert handle_request(event(), dependencies)["action"] == "none", "a second time nothing differs"
    assert statuses(dependencies) == ["SUCCESS", "SUCCESS"]


def test_where_the_fleet_scales_its_number_stays_within_the_bounds(dependencies: SizeDependencies) -> None:
    handle_request(event(nodes="", Minimum="2", Maximum="10"), dependencies)
    assert size(dependencies) == (2, 10, 2)
    dependencies.autoscaling.set_desired_capacity(AutoScalingGroupName=GROUP, DesiredCapacity=7)
    handle_request(event(nodes="", Minimum="2", Maximum="10"), dependencies)
    assert size(dependencies) == (2, 10, 7)


def test_a_deletion_changes_nothing(dependencies: SizeDependencies) -> None:
    assert handle_request(event("Delete"), dependencies)["action"] == "none"
    assert (size(dependencies), statuses(dependencies)) == ((0, 0, 0), ["SUCCESS"])


@pytest.mark.parametrize("wrong", ["group", "number"])
def test_a_size_that_cannot_be_set_fails_the_deployment_with_its_reason(
    wrong: str, dependencies: SizeDependencies
) -> None:
    name = "nothing" if wrong == "group" else GROUP
    other = SizeDependencies(name, dependencies.autoscaling, dependencies.send)
    done = handle_request(event(nodes="3" if wrong == "group" else "three"), other)
    assert (done["action"], "was not set" in done["reason"]) == ("failed", True)
    assert statuses(dependencies) == ["FAILED"]


def test_the_handler_reads_its_environment(dependencies: SizeDependencies, monkeypatch: pytest.MonkeyPatch) -> None:
    size_requested: Any = importlib.import_module("lambdas.handlers.size_requested")
    context: Any = Context()
    size_requested._dependencies.cache_clear()
    monkeypatch.delenv("SYNKTI_GROUP", raising=False)
    with pytest.raises(ConfigurationError, match="SYNKTI_GROUP"):
        size_requested.handler(event(), context)
    monkeypatch.setenv("SYNKTI_GROUP", GROUP)
    monkeypatch.setattr(size_request, "put_response", Sent())
    assert size_requested.handler(event(), context)["action"] == "set"
    size_requested._dependencies.cache_clear()


def test_an_aws_that_cannot_be_reached_fails_the_deployment_at_once(dependencies: SizeDependencies) -> None:
    """Without a response CloudFormation would wait for an hour."""

    class Unreachable:
        def describe_auto_scaling_groups(self, **_: Any) -> Any:
            raise EndpointConnectionError(endpoint_url="https://autoscaling")

    done = handle_request(event(), replace(dependencies, autoscaling=Unreachable()))
    assert (done["action"], "https://autoscaling" in done["reason"]) == ("failed", True)
    assert statuses(dependencies) == ["FAILED"]
