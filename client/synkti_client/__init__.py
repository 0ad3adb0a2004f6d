"""httpx clients with which the OpenAI SDK survives the loss of any Synkti node, the one it talks to included.

    from openai import OpenAI
    import synkti_client

    nodes = ["http://10.0.1.5:8000", "http://10.0.2.7:8000"]
    client = OpenAI(base_url="http://synkti/v1", http_client=synkti_client.http_client(nodes))

The nodes given are where it begins; it learns of the others from them. `transport` gives the transport alone, for an
httpx client with settings of its own; the `async_` ones are the same for AsyncOpenAI.
"""

from __future__ import annotations

from collections.abc import Iterable

from synkti_client._attempts import NoNodeAnswers, RequestLost, StreamLost
from synkti_client._httpx import httpx
from synkti_client._nodes import Nodes
from synkti_client._patience import RetryPolicy
from synkti_client._transport import AsyncContinuousTransport, ContinuousTransport

__all__ = [
    "AsyncContinuousTransport",
    "ContinuousTransport",
    "NoNodeAnswers",
    "RequestLost",
    "RetryPolicy",
    "StreamLost",
    "async_http_client",
    "async_transport",
    "http_client",
    "httpx",
    "transport",
]

_TIMEOUT_S = 600.0
"""For an answer in one piece; a stream has bounds of its own (RetryPolicy)."""


def http_client(
    nodes: Iterable[str] = (), *, discovery: str | None = None, patience: RetryPolicy | None = None
) -> httpx.Client:
    """For OpenAI(http_client=...). As `transport`."""
    return httpx.Client(transport=transport(nodes, discovery=discovery, patience=patience), timeout=_TIMEOUT_S)


def async_http_client(
    nodes: Iterable[str] = (), *, discovery: str | None = None, patience: RetryPolicy | None = None
) -> httpx.AsyncClient:
    """For AsyncOpenAI(http_client=...). As `transport`."""
    made = async_transport(nodes, discovery=discovery, patience=patience)
    return httpx.AsyncClient(transport=made, timeout=_TIMEOUT_S)


def transport(
    nodes: Iterable[str] = (), *, discovery: str | None = None, patience: RetryPolicy | None = None
) -> ContinuousTransport:
    """For httpx.Client. nodes: URLs of some nodes (http://host:port).

    discovery: a URL that answers like any node's /v1/synkti/nodes, a load balancer's for example. At least one of
    both must be there. Raises ValueError.
    """
    return ContinuousTransport(Nodes(nodes, discovery), patience or RetryPolicy())


def async_transport(
    nodes: Iterable[str] = (), *, discovery: str | None = None, patience: RetryPolicy | None = None
) -> AsyncContinuousTransport:
    """For httpx.AsyncClient. As `transport`."""
    return AsyncContinuousTransport(Nodes(nodes, discovery), patience or RetryPolicy())
