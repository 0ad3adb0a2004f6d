"""An httpx transport with which the OpenAI SDK survives the loss of any Synkti node, the one it talks to included.

    import httpx
    from openai import OpenAI
    import synkti_client

    nodes = ["http://10.0.1.5:8000", "http://10.0.2.7:8000"]
    client = OpenAI(
        base_url="http://synkti/v1", api_key="...",
        http_client=httpx.Client(transport=synkti_client.transport(nodes)),
    )

`async_transport` is the same for AsyncOpenAI. The nodes given are where it begins; it learns of the others from them.
"""

from __future__ import annotations

from collections.abc import Iterable

from synkti_client._nodes import Nodes
from synkti_client._patience import Patience
from synkti_client._transport import AsyncContinuousTransport, ContinuousTransport

__all__ = ["AsyncContinuousTransport", "ContinuousTransport", "Patience", "async_transport", "transport"]


def transport(
    nodes: Iterable[str] = (), *, discovery: str | None = None, patience: Patience | None = None
) -> ContinuousTransport:
    """For httpx.Client. nodes: URLs of some nodes (http://host:port).

    discovery: a URL that answers like any node's /v1/synkti/nodes, a load balancer's for example. At least one of
    both must be there. Raises ValueError.
    """
    return ContinuousTransport(Nodes(nodes, discovery), patience or Patience())


def async_transport(
    nodes: Iterable[str] = (), *, discovery: str | None = None, patience: Patience | None = None
) -> AsyncContinuousTransport:
    """For httpx.AsyncClient. As `transport`."""
    return AsyncContinuousTransport(Nodes(nodes, discovery), patience or Patience())
