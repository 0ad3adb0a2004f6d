"""Makes every call of the Lambdas that CloudFormation invokes for custom resources."""

from __future__ import annotations

import importlib
from typing import Any

import pytest

from checks.assemblies import REGION
from lambdas import model_request, size_request
from node_agent.contract import environment as env
from node_agent.contract.names import model_project_name
from tests.aws_calls.agent_calls import CLUSTER, GROUP, MODEL
from tests.aws_calls.recording import Recorder
from tests.unit.lambdas.test_handlers import Context

_LARGER = {"MinSize": 0, "MaxSize": 10, "DesiredCapacity": 9}
_PROPERTIES = {
    "model_requested": {"Name": MODEL, "Source": "acme/tiny"},
    "size_requested": {"Minimum": "0", "Maximum": "6", "Nodes": "3", "Deployment": "1"},
}


def call_as_custom_resources(recorder: Recorder) -> dict[str, list[int]]:
    """Play each request; return the positions of each handler's calls among those of the recorder."""
    positions: dict[str, list[int]] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_DEFAULT_REGION", REGION)
        patch.setenv(env.HUB_PROJECT, model_project_name(CLUSTER))
        patch.setenv(env.GROUP, GROUP)
        for module in (model_request, size_request):
            patch.setattr(module, "put_response", lambda url, response: None)
        for name, properties in _PROPERTIES.items():
            before = len(recorder.calls)
            handler = importlib.reload(importlib.import_module(f"lambdas.handlers.{name}")).handler
            with recorder.answering(DescribeAutoScalingGroups={"AutoScalingGroups": [_LARGER]}):
                assert handler(_request("Update", properties), Context())["action"] in ("started", "set")
            refused = dict.fromkeys(("StartBuild", "DescribeAutoScalingGroups"), "AccountLimitExceededException")
            with recorder.refusing(**refused):
                assert handler(_request("Create", properties), Context())["action"] == "failed"
            assert handler(_request("Delete", properties), Context())["action"] == "none"
            positions[name] = list(range(before, len(recorder.calls)))
    return positions


def _request(kind: str, properties: dict[str, str]) -> dict[str, Any]:
    return {
        "RequestType": kind,
        "ResponseURL": "https://cloudformation-custom-resource-response.s3.amazonaws.com/x?Signature=y",
        "StackId": "arn:aws:cloudformation:us-east-1:123456789012:stack/synkti-model/1",
        "RequestId": "c0ffee00-1111-2222-3333-444455556666",
        "LogicalResourceId": "Request",
        "ResourceProperties": properties,
    }
