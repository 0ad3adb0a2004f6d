"""What is deployed: the settings' file, the context, and the account that the credentials belong to."""

from __future__ import annotations

import pytest

from cli.deployment import read_request
from stacks.settings import FleetSettings


@pytest.mark.parametrize(
    ("endpoint", "pairs", "shown"),
    [
        ("http://127.0.0.1:4566", (), (True, False, False)),
        ("http://127.0.0.1:4566", ("api_keys=true", "audit_log=true"), (True, True, True)),
        ("", (), (False, True, True)),
    ],
)
def test_on_the_embedded_aws_clients_need_no_key_unless_that_is_wanted(
    endpoint: str, pairs: tuple[str, ...], shown: tuple[bool, bool, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    settings = read_request("synkti", "us-east-1", None, pairs).settings
    assert isinstance(settings, FleetSettings)
    assert (settings.local, settings.api_keys, settings.audit_log) == shown
