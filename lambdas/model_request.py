"""Handle CloudFormation's requests for a model: start a build that copies it, and that responds.

A build receives the response for the case that it fails without a reason of its own, and the address for it. Where no
build can be started the response is sent from here. The deletion of the resource deletes no model.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import boto3
from botocore.exceptions import BotoCoreError, ClientError

from lambdas.custom_resource import failed_response, put_response
from node_agent.contract import environment as env
from node_agent.contract.errors import ConfigurationError

COPY_S = 3_000
"""How long the copy may take. CloudFormation waits for an hour, of which the build needs some minutes to start."""

BUILD_MINUTES = 58

_NO_BUILDS = (
    "this account may not run a build now: AWS limits builds in new accounts, to none at first. Request a quota for "
    "concurrently running builds in Service Quotas (CodeBuild), or push the model: synkti model push DIR"
)


@dataclass(frozen=True)
class RequestDependencies:
    """What the handler uses. codebuild: boto3's client; send: sends a response to CloudFormation's URL."""

    project: str
    codebuild: Any
    send: Callable[[str, Mapping[str, str]], None]


def from_aws(environ: Mapping[str, str]) -> RequestDependencies:
    """Create the dependencies on AWS. Raises ConfigurationError."""
    if not environ.get(env.HUB_PROJECT):
        raise ConfigurationError([f"{env.HUB_PROJECT} is not set"])
    return RequestDependencies(environ[env.HUB_PROJECT], boto3.client("codebuild"), put_response)


def handle_request(event: Mapping[str, Any], dependencies: RequestDependencies) -> dict[str, str]:
    """Handle one request.

    KeyError for a request that CloudFormation does not send, and OSError where it cannot be responded to, pass through.

    Args:
        event: the request.
        dependencies: on AWS.

    Returns:
        The action, and the build's id or the reason.
    """
    properties = event["ResourceProperties"]
    early_end = "the build ended without a result; its log is in CloudWatch, /aws/codebuild/" + dependencies.project
    response = failed_response(event, f"models/{properties['Name']}", early_end)
    url = event["ResponseURL"]
    if event["RequestType"] == "Delete":
        dependencies.send(url, {**response, "Status": "SUCCESS", "Reason": "the model stays"})
        return {"action": "none", "reason": "the model stays"}
    variables = {
        env.MODEL_NAME: properties["Name"],
        env.MODEL_SOURCE: properties["Source"],
        env.HUB_WITHIN_S: str(COPY_S),
        env.RESPONSE_URL: url,
        env.RESPONSE_FAILED: json.dumps(response),
    }
    try:
        started = dependencies.codebuild.start_build(
            projectName=dependencies.project,
            idempotencyToken=event["RequestId"],  # Lambda may invoke this twice
            timeoutInMinutesOverride=BUILD_MINUTES,
            environmentVariablesOverride=[
                {"name": name, "value": value, "type": "PLAINTEXT"} for name, value in variables.items()
            ],
        )
    except (BotoCoreError, ClientError) as error:
        reason = _reason(error)
        dependencies.send(url, {**response, "Reason": reason})
        return {"action": "failed", "reason": reason}
    return {"action": "started", "build": str(started["build"]["id"])}


def _reason(error: BotoCoreError | ClientError) -> str:
    described = error.response.get("Error", {}) if isinstance(error, ClientError) else {}
    if described.get("Code") == "AccountLimitExceededException":
        return f"{_NO_BUILDS} ({described.get('Message', '')})"
    return f"no build could be started: {error}"
