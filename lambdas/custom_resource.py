"""Respond to CloudFormation's requests for custom resources."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Mapping
from typing import Any

_TIMEOUT_S = 20.0


def failed_response(event: Mapping[str, Any], resource_id: str, reason: str) -> dict[str, str]:
    """Return the response for a failure; with another Status and Reason it is that of a success.

    Args:
        event: the request. KeyError for one that CloudFormation does not send passes through.
        resource_id: of a new resource. An existing one keeps its own, so that no update deletes a resource.
        reason: why it failed.

    Returns:
        The response.
    """
    return {
        "Status": "FAILED",
        "Reason": reason,
        "PhysicalResourceId": event.get("PhysicalResourceId") or resource_id,
        "StackId": event["StackId"],
        "RequestId": event["RequestId"],
        "LogicalResourceId": event["LogicalResourceId"],
    }


def put_response(url: str, response: Mapping[str, str]) -> None:
    """Send a response to the URL that CloudFormation has signed. Raises OSError."""
    # Without a content type, which the URL's signature would have to contain.
    request = urllib.request.Request(  # noqa: S310 # CloudFormation's own URL
        url, data=json.dumps(response).encode(), headers={"Content-Type": ""}, method="PUT"
    )
    urllib.request.urlopen(request, timeout=_TIMEOUT_S).close()  # noqa: S310
