"""Bounds of an HTTP server, in bytes, numbers and seconds.

What exceeds them gets an error response that says so, or, from a client that does not read, a closed connection.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from node_agent.core.http.document_bounds import DocumentBounds


@dataclass(frozen=True)
class Limits:
    """The bounds of one server. One of these bounds every byte and second of a client, authenticated or not."""

    body_bytes: int = 16 * 1024 * 1024
    """Of one request."""

    bodies_bytes: int = 256 * 1024 * 1024
    """Of all bodies of more than 64 KiB together, from their first bytes until their answers' ends; beyond it 503."""

    document: DocumentBounds | None = field(default_factory=DocumentBounds)
    """Of a body as a JSON document; None where the server reads no clients' documents. Beyond it 413."""

    head_bytes: int = 64 * 1024
    """Of one request: its line and its headers, and later whatever is not its body (chunks' extensions, trailers)."""

    headers: int = 100
    """Of one request, trailers included."""

    connections: int = 8_192
    """At once; more may ask for the node's health, and get a 503 for anything else."""

    connections_per_address: int = 4_096
    """Of one client's address; more are treated as those beyond `connections`, but get a 429."""

    reserved: int = 256
    """Connections beyond these bounds, for health only; further ones are cut off."""

    health: frozenset[str] = frozenset({"/healthz", "/readyz", "/health", "/ping"})
    """The paths that a full server still answers."""

    pipelined: int = 16
    """Requests that a client sends on one connection before it has the answer to the first."""

    idle_s: float = 75.0
    """How long a connection may wait for its next request."""

    stalled_s: float = 20.0
    """How long a request's head may take, and within what time `stalled_bytes` of its body have to come."""

    stalled_bytes: int = 4 * 1024
    """Of a body that is not whole, within `stalled_s`; a client that sends less is given up with a 408."""

    request_s: float = 600.0
    """How long a request may take to arrive."""

    unread_s: float = 120.0
    """How long a client may not read what it is sent, before its connection is cut off."""
