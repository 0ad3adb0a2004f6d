"""httpx clients with which the OpenAI SDK survives the loss of any Synkti node, also of the one that serves it.

    from openai import OpenAI
    import synkti_client

    nodes = ["http://10.0.1.5:8000", "http://10.0.2.7:8000"]
    client = OpenAI(base_url="http://synkti/v1", http_client=synkti_client.http_client(nodes))

The client reads the list of all nodes from those given. `transport` returns the transport only, for an httpx client
with settings of its own; the `async_` functions are the same for AsyncOpenAI.
"""

from __future__ import annotations

from collections.abc import Iterable

from synkti_client._attempts import NoNodeAnswers, RequestLost, StreamLost
from synkti_client._httpx import httpx
from synkti_client._nodes import Nodes
from synkti_client._retry_policy import RetryPolicy
from synkti_client._sync_transport import ContinuousTransport
from synkti_client._tls import Tls
from synkti_client._transport import AsyncContinuousTransport

__all__ = [
    "AsyncContinuousTransport",
    "ContinuousTransport",
    "NoNodeAnswers",
    "RequestLost",
    "RetryPolicy",
    "StreamLost",
    "Tls",
    "async_http_client",
    "async_transport",
    "http_client",
    "httpx",
    "transport",
]

_TIMEOUT_S = 600.0
"""The timeout of a request without streaming; a stream has the bounds of its RetryPolicy."""


def http_client(
    nodes: Iterable[str] = (),
    *,
    discovery: str | None = None,
    retry_policy: RetryPolicy | None = None,
    tls: Tls | None = None,
) -> httpx.Client:
    """Create a client for OpenAI(http_client=...). The arguments are those of `transport`."""
    created = transport(nodes, discovery=discovery, retry_policy=retry_policy, tls=tls)
    return httpx.Client(transport=created, timeout=_TIMEOUT_S)


def async_http_client(
    nodes: Iterable[str] = (),
    *,
    discovery: str | None = None,
    retry_policy: RetryPolicy | None = None,
    tls: Tls | None = None,
) -> httpx.AsyncClient:
    """Create a client for AsyncOpenAI(http_client=...). The arguments are those of `transport`."""
    created = async_transport(nodes, discovery=discovery, retry_policy=retry_policy, tls=tls)
    return httpx.AsyncClient(transport=created, timeout=_TIMEOUT_S)


def transport(
    nodes: Iterable[str] = (),
    *,
    discovery: str | None = None,
    retry_policy: RetryPolicy | None = None,
    tls: Tls | None = None,
) -> ContinuousTransport:
    """Create a transport for httpx.Client.

    Raises ValueError where both nodes and discovery are missing, or a URL or the CA bundle is invalid.

    Args:
        nodes: URLs of some nodes (http://host:port, or https).
        discovery: a URL that answers as any node's /v1/synkti/nodes, for example a load balancer's.
        retry_policy: the bounds of attempts and time; None: RetryPolicy's defaults.
        tls: how https nodes are checked; None: by the system's authorities, under the host of each URL.

    Returns:
        The transport; it sends nothing before the application's first request.
    """
    known = Nodes(nodes, discovery, tls.server_name if tls is not None else None)
    return ContinuousTransport(known, retry_policy or RetryPolicy(), tls=tls)


def async_transport(
    nodes: Iterable[str] = (),
    *,
    discovery: str | None = None,
    retry_policy: RetryPolicy | None = None,
    tls: Tls | None = None,
) -> AsyncContinuousTransport:
    """Create a transport for httpx.AsyncClient. The arguments are those of `transport`."""
    known = Nodes(nodes, discovery, tls.server_name if tls is not None else None)
    return AsyncContinuousTransport(known, retry_policy or RetryPolicy(), tls=tls)
