"""Handle CloudFormation's requests for the fleet's size: each deployment compares it, and sets it.

CloudFormation itself sets a size only where something else of the group has changed, so that `synkti scale` and `synkti
stop` would outlive a deployment.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import boto3
from botocore.exceptions import BotoCoreError, ClientError

from lambdas.custom_resource import failed_response, put_response
from node_agent.contract import environment as env
from node_agent.contract.errors import ConfigurationError
from node_agent.contract.group_size import DeployedSize, GroupSize, as_deployed


@dataclass(frozen=True)
class SizeDependencies:
    """What the handler uses. autoscaling: boto3's client; send: sends a response to CloudFormation's URL."""

    group: str
    autoscaling: Any
    send: Callable[[str, Mapping[str, str]], None]


def from_aws(environ: Mapping[str, str]) -> SizeDependencies:
    """Create the dependencies on AWS. Raises ConfigurationError."""
    if not environ.get(env.GROUP):
        raise ConfigurationError([f"{env.GROUP} is not set"])
    return SizeDependencies(environ[env.GROUP], boto3.client("autoscaling"), put_response)


def handle_request(event: Mapping[str, Any], dependencies: SizeDependencies) -> dict[str, str]:
    """Handle one request.

    KeyError for a request that CloudFormation does not send, and OSError where it cannot be responded to, pass through.

    Args:
        event: the request.
        dependencies: on AWS.

    Returns:
        The action and its reason.
    """
    response = failed_response(event, f"{dependencies.group}-size", "")
    if event["RequestType"] == "Delete":
        done = {"action": "none", "reason": "the group goes with its stack"}
    else:
        try:
            done = _set_size(dependencies, _deployed(event["ResourceProperties"]))
        except (BotoCoreError, ClientError, ValueError) as error:
            done = {"action": "failed", "reason": f"the size of {dependencies.group} was not set: {error}"}
    status = "FAILED" if done["action"] == "failed" else "SUCCESS"
    dependencies.send(event["ResponseURL"], {**response, "Status": status, "Reason": done["reason"]})
    return done


def _deployed(properties: Mapping[str, Any]) -> DeployedSize:
    """Parse a resource's properties. Raises ValueError."""
    nodes = str(properties.get("Nodes", ""))
    return DeployedSize(int(properties["Minimum"]), int(properties["Maximum"]), int(nodes) if nodes else None)


def _set_size(dependencies: SizeDependencies, deployed: DeployedSize) -> dict[str, str]:
    """Set the group's size where it differs from the deployed one. Raises botocore's errors, ValueError."""
    name = dependencies.group
    groups = dependencies.autoscaling.describe_auto_scaling_groups(AutoScalingGroupNames=[name])["AutoScalingGroups"]
    if not groups:
        raise ValueError("there is no such group")
    before = GroupSize(*(int(groups[0][key]) for key in ("MinSize", "MaxSize", "DesiredCapacity")))
    after = as_deployed(before, deployed)
    if after == before:
        return {"action": "none", "reason": f"{name} keeps {after.desired} nodes"}
    dependencies.autoscaling.update_auto_scaling_group(
        AutoScalingGroupName=name, MinSize=after.minimum, MaxSize=after.maximum, DesiredCapacity=after.desired
    )
    return {"action": "set", "reason": f"{name} keeps {after.desired} nodes, was {before.desired}"}
