"""Encode a line of the audit log: which key did what, without any content."""

from __future__ import annotations

from dataclasses import dataclass

import orjson

from node_agent.contract.timestamps import format_instant
from node_agent.core.access.caller import Caller

_MAX_MODEL_CHARACTERS = 128
"""Of a model's name, which a client may invent."""


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One answered request.

    Attributes:
        at: When the answer ended, in unix seconds.
        node: The instance id of the entry.
        caller: Who sent it.
        address: The client's IP address.
        method: Of HTTP.
        route: From a bounded set, never a path: a path may have a resume token.
        status: That the client received.
        duration_s: From the whole request to the end of the answer.
        model: Named in the request, None where it named none.
        stream: The public id of the stream, "" for an answer in one piece.
        tokens_in: Of the prompt, None where the engine did not report it.
        tokens_out: Of the answer, None where the engine did not report it.
    """

    at: float
    node: str
    caller: Caller
    address: str
    method: str
    route: str
    status: int
    duration_s: float
    model: str | None = None
    stream: str = ""
    tokens_in: int | None = None
    tokens_out: int | None = None

    def to_line(self) -> bytes:
        """Return the entry as one line of JSON, without fields that have no value."""
        fields = {
            "at": format_instant(self.at),
            "node": self.node,
            "key": self.caller.key_id,
            "name": self.caller.name,
            "address": self.address,
            "method": self.method,
            "route": self.route,
            "status": self.status,
            "duration_ms": round(self.duration_s * 1000, 1),
            "model": self.model and self.model[:_MAX_MODEL_CHARACTERS].encode("utf-8", "replace").decode(),
            "stream": self.stream or None,
            "tokens_in": self.tokens_in,
            "tokens_out": self.tokens_out,
        }
        return orjson.dumps({name: value for name, value in fields.items() if value is not None}) + b"\n"
