"""What a connection has of its HTTP server: the bounds, and what all of the server's connections share."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Protocol

from node_agent.adapters.http_limits import Limits
from node_agent.core.http.body_budget import BodyBudget, HeldBody
from node_agent.core.http.connection_limits import ConnectionSlot
from node_agent.ports import AlternateProtocol, ServerRequest


class Connection(Protocol):
    """What the server needs of a connection.

    slot: what it counts as. is_congested: its client reads more slowly than it is sent.
    """

    slot: ConnectionSlot
    is_congested: bool

    def abort(self) -> None:
        """End the connection at once."""
        ...

    def end_when_idle(self) -> None:
        """End the connection after the responses to what has arrived."""
        ...

    def check(self, now: float) -> None:
        """End the connection if its client takes too long. now: the loop's time in seconds."""
        ...


class Server(Protocol):
    """The server of a connection: what all its connections share."""

    @property
    def limits(self) -> Limits:
        """The bounds that each connection applies."""
        ...

    @property
    def alternate(self) -> AlternateProtocol | None:
        """Another protocol that a connection may begin."""
        ...

    @property
    def bodies(self) -> BodyBudget:
        """The budget of all bodies; a connection releases what it reserved."""
        ...

    @property
    def is_closing(self) -> bool:
        """Whether the response to the current request is a connection's last."""
        ...

    @property
    def is_over(self) -> bool:
        """Whether a new connection is aborted at once."""
        ...

    @property
    def now(self) -> float:
        """The loop's time in seconds, at most a second old."""
        ...

    @property
    def date(self) -> bytes:
        """The line of the Date header, with its line end."""
        ...

    def identify(self, transport: asyncio.BaseTransport) -> str | None:
        """Return who has connected, "" where clients have no identities; None for a client that is rejected."""
        ...

    def add(self, connection: Connection, address: str) -> ConnectionSlot:
        """Add a new connection; return its slot."""
        ...

    def remove(self, connection: Connection, address: str) -> None:
        """Remove a connection that has ended; does nothing for one that was removed before."""
        ...

    def reserve_body(self, body: HeldBody, size: int) -> bool:
        """Reserve room for a body that has grown to `size` bytes; return whether there is room."""
        ...

    def count_refusal(self, code: str) -> None:
        """Count a refused or cut-off connection."""
        ...

    def is_refused(self, method: str, target: str, headers: Mapping[bytes, bytes]) -> bool:
        """Return whether a request is refused by its head alone."""
        ...

    def run(self, request: ServerRequest, *, is_refused: bool = False) -> asyncio.Task[None]:
        """Answer a request in the background. is_refused: with the refusal that its head decided."""
        ...
