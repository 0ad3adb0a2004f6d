"""boto3's clients with recorded responses: botocore validates each request and each response against AWS's model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import boto3
from botocore.stub import ANY, Stubber

REGION = "us-east-1"
Call = tuple[str, dict[str, Any] | None, dict[str, Any] | str]
"""An operation, its expected parameters (None: any), and its response, or the code of its error."""

__all__ = ["ANY", "Call", "recorded"]


def client_of(service: str) -> Any:
    session = boto3.session.Session("test", "test", region_name=REGION)
    return session.client(service)  # type: ignore[call-overload]


def stub(client: Any, calls: list[Call]) -> Stubber:
    stubber = Stubber(client)
    for operation, expected, response in calls:
        if isinstance(response, str):
            stubber.add_client_error(operation, response, "recorded", expected_params=expected)
        else:
            stubber.add_response(operation, response, expected)
    return stubber


@contextmanager
def recorded(service: str, *calls: Call) -> Iterator[Any]:
    """A client that accepts exactly these calls, in this order."""
    client = client_of(service)
    with stub(client, list(calls)) as stubber:
        yield client
        stubber.assert_no_pending_responses()
