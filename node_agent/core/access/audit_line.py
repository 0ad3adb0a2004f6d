"""Encode a line of the audit log: which key did what, and never what it said."""

from __future__ import annotations

from dataclasses import dataclass

import orjson

from node_agent.contract.timestamps import format_instant
from node_agent.core.access.caller import Caller

_MAX_MODEL_CHARACTERS = 128
"""Of a model's name, which a client may invent."""

_COUNTS = ((b'"prompt_tokens":', b'"input_tokens":'), (b'"completion_tokens":', b'"output_tokens":'))
"""Of a usage, in OpenAI's and in Anthropic's words. In a text of the answer the quotes would be escaped."""

_MAX_DIGITS = 12


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


def read_usage(body: bytes) -> tuple[int | None, int | None]:
    """Read the tokens of the prompt and of the answer from a whole answer, without parsing it; None where absent."""
    tokens_in, tokens_out = (max((_last_number(body, name) for name in names), key=_order) for names in _COUNTS)
    return tokens_in, tokens_out


def _order(number: int | None) -> int:
    return -1 if number is None else number


def _last_number(body: bytes, name: bytes) -> int | None:
    at = body.rfind(name)
    if at < 0:
        return None
    digits = body[at + len(name) : at + len(name) + _MAX_DIGITS].lstrip()
    end = next((index for index, byte in enumerate(digits) if not 0x30 <= byte <= 0x39), len(digits))
    return int(digits[:end]) if end else None
