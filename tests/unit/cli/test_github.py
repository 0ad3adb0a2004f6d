"""GitHub's facts: the repository's numbers from its API, the identity provider of the account."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import boto3
import pytest

from cli.account import Account
from cli.adapters.account_facts import read_facts
from cli.adapters.github import find_repository
from cli.core.account_facts import missing_settings
from cli.core.github import AUDIENCE, ISSUER, Provider, Repository
from cli.core.result import Unavailable
from cli.errors import Failed
from stacks.settings import FleetSettings
from tests.unit.cli.conftest import ACCOUNT, REGION
from tests.unit.cli.memory_cloudformation import MemoryCloudFormation

SETTINGS = FleetSettings(account=ACCOUNT, region=REGION, github_repository="acme/models")
DOCUMENT = {"full_name": "acme/models", "id": 987654321, "owner": {"id": 4321, "login": "acme"}, "private": False}

Respond = Callable[[int, bytes], dict[str, str]]


@pytest.fixture
def api() -> Iterator[tuple[Respond, list[tuple[str, str | None]]]]:
    """An API with one response, and the paths and authorizations of the requests that it received."""
    received: list[tuple[str, str | None]] = []
    response: dict[str, Any] = {"status": 200, "body": b""}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            received.append((self.path, self.headers.get("Authorization")))
            self.send_response(response["status"])
            self.end_headers()
            self.wfile.write(response["body"])

        def log_message(self, *_: object) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()

    def respond(status: int, body: bytes) -> dict[str, str]:
        response.update(status=status, body=body)
        return {"GITHUB_API_URL": f"http://127.0.0.1:{server.server_port}"}

    yield respond, received
    server.shutdown()
    thread.join()
    server.server_close()


Api = tuple[Respond, list[tuple[str, str | None]]]


def test_the_numbers_are_those_of_the_api(api: Api) -> None:
    respond, received = api
    environ = respond(200, json.dumps(DOCUMENT).encode())
    assert find_repository("acme/models", environ) == Repository("acme/models", "4321", "987654321")
    find_repository("acme/models", {**environ, "GH_TOKEN": "t"})
    assert received == [("/repos/acme/models", None), ("/repos/acme/models", "Bearer t")]


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (404, b"{}", "no repository acme/models; if it is private, set GH_TOKEN"),
        (403, b"", "refuses to answer"),
        (500, b"", r"failed \(500\)"),
        (200, b"<html>", "gave no answer"),
        (200, b'{"id": "1"}', "not a repository's document"),
        (200, b"[]", "not a repository's document"),
    ],
)
def test_a_response_without_numbers_is_an_error_with_its_reason(
    status: int, body: bytes, message: str, api: Api
) -> None:
    with pytest.raises(Failed, match=message):
        find_repository("acme/models", api[0](status, body))


def test_an_unreachable_api_is_an_error_with_its_reason() -> None:
    with pytest.raises(Failed, match="gave no answer about acme/models"):
        find_repository("acme/models", {"GITHUB_API_URL": "http://127.0.0.1:9"})


def test_a_provider_of_another_stack_becomes_a_setting_and_our_own_does_not(aws: MemoryCloudFormation) -> None:
    """If it were not, the stack would fail to create a second one: an account has one for an issuer."""
    account = Account()
    assert read_facts(account, SETTINGS).provider is None
    iam = boto3.client("iam")
    arn = iam.create_open_id_connect_provider(Url=f"https://{ISSUER}", ClientIDList=[AUDIENCE])[
        "OpenIDConnectProviderArn"
    ]
    iam.create_open_id_connect_provider(Url="https://oidc.example.com", ClientIDList=["x"])
    facts = read_facts(account, SETTINGS)
    assert facts.provider == Provider(arn, (AUDIENCE,), is_ours=False)
    assert missing_settings(SETTINGS, facts) == {"github_oidc_provider": arn}
    ours = {"Provider": {"Type": "AWS::IAM::OIDCProvider", "DeletionPolicy": "Retain", "PhysicalId": arn}}
    aws.make("synkti-github", "synkti", {}, ours)
    facts = read_facts(account, SETTINGS)
    assert facts.provider == Provider(arn, (AUDIENCE,), is_ours=True)
    assert missing_settings(SETTINGS, facts) == {}
    aws.stacks["synkti-github"].status = "ROLLBACK_COMPLETE"
    assert missing_settings(SETTINGS, read_facts(account, SETTINGS)) == {"github_oidc_provider": arn}, (
        "a stack that was rolled back is created anew, and its provider was retained"
    )


def test_without_a_repository_github_is_not_queried(aws: MemoryCloudFormation) -> None:
    facts = read_facts(Account(), FleetSettings())
    assert (facts.vpc, facts.provider, facts.repository) == (None, None, None)


def test_numbers_of_an_unreadable_repository_stay_missing(aws: MemoryCloudFormation) -> None:
    facts = read_facts(Account(), SETTINGS)
    assert isinstance(facts.repository, Unavailable)
    assert missing_settings(SETTINGS, facts) == {}
