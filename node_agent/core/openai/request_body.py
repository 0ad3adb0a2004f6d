"""Parse the JSON of a request's body as vLLM's server does, and serialize it again, so that both read the same.

orjson accepts standard JSON. Python's own `json`, which vLLM's server uses, accepts more: a byte order mark, UTF-16 and
UTF-32, NaN and infinities, halves of surrogate pairs, and numbers too large for a double. Only such bodies are parsed
with it, up to a bound, because it is several times slower.

A body is always forwarded as it was parsed here, never as received: two parsers that differ in one byte would be a way
around the removal of internal arguments (`_strip_internal_args`).
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

import orjson

from node_agent.contract.errors import RequestRejected

MAX_DEPTH = 200
"""Bounds the nesting in a stream's header; orjson writes 254 levels. Deeper bodies are proxied without continuation."""

MAX_NONSTANDARD_BYTES = 1024 * 1024
"""Bounds a body that only Python's parser accepts."""

INTERNAL_ARG_PREFIX = "synkti_"
"""Prefix of internal arguments for engines (`vllm_xargs`), which no client may send."""


@dataclass(frozen=True)
class Body:
    """A parsed body.

    value: the JSON, without internal arguments. is_standard: orjson can serialize it, also inside of other JSON.
    """

    value: Any
    is_standard: bool = True

    def to_bytes(self) -> bytes:
        """Serialize the body. Raises RequestRejected (400) where it is nested too deep."""
        try:
            return orjson.dumps(self.value) if self.is_standard else json.dumps(self.value).encode()
        except (orjson.JSONEncodeError, RecursionError) as error:
            raise _rejected("The body is nested too deep.") from error

    @property
    def model(self) -> str | None:
        """The model that the body names, None for none or an invalid one."""
        model = self.value.get("model") if isinstance(self.value, dict) else None
        return model if isinstance(model, str) and model else None


def read_body(raw: bytes) -> Body:
    """Parse a body. Raises RequestRejected (400) where vLLM's server could not either, or beyond the bounds."""
    try:
        value, is_nonstandard = orjson.loads(raw), False
    except orjson.JSONDecodeError as error:
        value, is_nonstandard = _read_nonstandard(raw, error), True
    if is_nonstandard or b"vllm_xargs" in raw or b"\\u" in raw:
        _strip_internal_args(value)
    is_deep = raw.count(b"[") + raw.count(b"{") > MAX_DEPTH and depth(value) > MAX_DEPTH
    return Body(value, is_standard=not is_deep and (not is_nonstandard or _is_standard(value)))


def _read_nonstandard(raw: bytes, error: orjson.JSONDecodeError) -> Any:
    if len(raw) > MAX_NONSTANDARD_BYTES:
        raise _rejected(f"The body is not valid JSON in UTF-8: {error}.") from error
    try:
        return json.loads(raw)
    except json.JSONDecodeError as failure:
        raise _rejected(f"The body is not valid JSON: {failure}.") from failure
    except (ValueError, RecursionError) as failure:  # neither UTF-8, -16 nor -32; a number of thousands of digits
        raise _rejected(f"The body cannot be read: {failure}.") from failure


def _is_standard(value: object) -> bool:
    """Return whether orjson serializes a value unchanged: it writes NaN as null, and fails on half a surrogate pair."""
    pending = [value]
    while pending:
        each = pending.pop()
        if isinstance(each, dict):
            pending += each.values()
        elif isinstance(each, list):
            pending += each
        elif isinstance(each, float) and not math.isfinite(each):
            return False
    try:
        orjson.dumps(value)
    except orjson.JSONEncodeError:
        return False
    return True


def depth(value: object) -> int:
    """Return the nesting depth of a JSON value, without recursion, up to one level beyond MAX_DEPTH."""
    level, found = [value], 0
    while level and found <= MAX_DEPTH:
        below: list[object] = []
        for each in level:
            if isinstance(each, (dict, list)):
                below += each.values() if isinstance(each, dict) else each
        found += any(isinstance(each, (dict, list)) for each in level)
        level = below
    return found


def _strip_internal_args(value: Any) -> None:
    """Remove internal arguments at any depth, in place; without recursion, because a client can nest arbitrarily."""
    pending = [value]
    while pending:
        each = pending.pop()
        if isinstance(each, dict):
            extra = each.get("vllm_xargs")
            if isinstance(extra, dict) and any(name.startswith(INTERNAL_ARG_PREFIX) for name in extra):
                each["vllm_xargs"] = {name: extra[name] for name in extra if not name.startswith(INTERNAL_ARG_PREFIX)}
            pending += each.values()
        elif isinstance(each, list):
            pending += each


def _rejected(message: str) -> RequestRejected:
    return RequestRejected(400, "invalid_request", message)
