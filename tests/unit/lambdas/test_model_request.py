"""CloudFormation's requests for a model: a build is started, which responds; or the response says why not."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from typing import Any

import boto3
import pytest
from botocore.stub import Stubber

from lambdas import model_request
from lambdas.model_request import RequestDependencies, handle_request
from node_agent.contract.errors import ConfigurationError
from tests.unit.lambdas.test_handlers import Context

URL = "https://cloudformation-custom-resource-response.s3.amazonaws.com/x?Signature=y"


def event(kind: str = "Create", **more: Any) -> dict[str, Any]:
    return {
        "RequestType": kind,
        "ResponseURL": URL,
        "StackId": "arn:aws:cloudformation:us-east-1:123456789012:stack/synkti-model/1",
        "RequestId": "c0ffee00-1111-2222-3333-444455556666",
        "LogicalResourceId": "RequestModel",
        "ResourceType": "Custom::SynktiModel",
        "ResourceProperties": {"ServiceToken": "arn", "Name": "tiny", "Source": "acme/tiny"},
        **more,
    }


class Sent:
    def __init__(self) -> None:
        self.responses: list[tuple[str, dict[str, str]]] = []

    def __call__(self, url: str, response: Mapping[str, str]) -> None:
        self.responses.append((url, dict(response)))


class Builds:
    """Starts builds as botocore's model of CodeBuild says: a wrong parameter is an error."""

    def __init__(self, error: str = "") -> None:
        client = boto3.client("codebuild", region_name="us-east-1")
        self._stub = Stubber(client)
        self._client = client
        self._error = error
        self.requests: list[dict[str, Any]] = []

    def start_build(self, **request: Any) -> Any:
        self.requests.append(request)
        if self._error:
            self._stub.add_client_error("start_build", self._error, "Cannot have more than 0 builds", 400)
        else:
            self._stub.add_response("start_build", {"build": {"id": "synkti-model:1"}}, request)
        with self._stub:
            return self._client.start_build(**request)


@pytest.mark.parametrize("kind", ["Create", "Update"])
def test_a_request_starts_a_build_that_can_respond(kind: str, aws: None) -> None:
    builds, sent = Builds(), Sent()
    done = handle_request(event(kind), RequestDependencies("synkti-model", builds, sent))
    assert done == {"action": "started", "build": "synkti-model:1"}
    assert sent.responses == [], "the build responds"
    (request,) = builds.requests
    variables = {each["name"]: each["value"] for each in request["environmentVariablesOverride"]}
    assert (variables["SYNKTI_MODEL_NAME"], variables["SYNKTI_MODEL_SOURCE"]) == ("tiny", "acme/tiny")
    assert variables["SYNKTI_RESPONSE_URL"] == URL
    failed = json.loads(variables["SYNKTI_RESPONSE_FAILED"])
    assert (failed["Status"], failed["PhysicalResourceId"]) == ("FAILED", "models/tiny")
    assert {"StackId", "RequestId", "LogicalResourceId", "Reason"} < set(failed)


def test_a_repeated_request_starts_no_second_build(aws: None) -> None:
    builds = Builds()
    for _ in range(2):
        handle_request(event(), RequestDependencies("synkti-model", builds, Sent()))
    assert {each["idempotencyToken"] for each in builds.requests} == {event()["RequestId"]}


def test_the_deletion_of_the_resource_deletes_no_model(aws: None) -> None:
    builds, sent = Builds(), Sent()
    handle_request(event("Delete", PhysicalResourceId="models/old"), RequestDependencies("p", builds, sent))
    ((url, response),) = sent.responses
    assert (url, response["Status"], response["PhysicalResourceId"]) == (URL, "SUCCESS", "models/old")
    assert builds.requests == []


@pytest.mark.parametrize(
    ("code", "message"),
    [("AccountLimitExceededException", "Request a quota"), ("ResourceNotFoundException", "no build could be started")],
)
def test_where_no_build_can_be_started_the_response_says_why(code: str, message: str, aws: None) -> None:
    sent = Sent()
    handle_request(event(), RequestDependencies("synkti-model", Builds(code), sent))
    ((_, response),) = sent.responses
    assert response["Status"] == "FAILED"
    assert message in response["Reason"]


def test_the_handler_reads_its_environment(aws: None, monkeypatch: pytest.MonkeyPatch) -> None:
    model_requested: Any = importlib.import_module("lambdas.handlers.model_requested")
    context: Any = Context()
    model_requested._dependencies.cache_clear()
    monkeypatch.delenv("SYNKTI_HUB_PROJECT", raising=False)
    with pytest.raises(ConfigurationError, match="SYNKTI_HUB_PROJECT"):
        model_requested.handler(event(), context)
    sent = Sent()
    monkeypatch.setenv("SYNKTI_HUB_PROJECT", "nothing")
    monkeypatch.setattr(model_request, "put_response", sent)
    model_requested._dependencies.cache_clear()
    with_error = model_requested.handler(event(), context)  # moto has no such project
    assert with_error["action"] == "failed"
    assert sent.responses[0][1]["Status"] == "FAILED"
    model_requested._dependencies.cache_clear()
