"""The JSON of a request's body, read as vLLM's server reads it and written anew, so that both read the same.

orjson reads what JSON is. Python's own `json`, with which vLLM's server reads, takes more: a byte order mark, UTF-16
and UTF-32, NaN and infinities, halves of surrogate pairs, and a number too large for a double. What only it can read
is read by it, up to a bound, because it is several times slower.

A body is always passed on as it was understood here, never as it came: two readers that differ in one byte would be a
way around what is taken out of it (`without_own_arguments`).
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

import orjson

from node_agent.contract.errors import RequestRejected

MAX_DEPTH = 200
"""Of what a journal's opening may hold; orjson writes 254 levels. What is deeper is passed on, and not continued."""

MAX_NONSTANDARD_BYTES = 1024 * 1024
"""Of a body that only Python's reader can read."""

INTERNAL_ARG_PREFIX = "synkti_"
"""What the names of our own arguments for engines (`vllm_xargs`) begin with: no client may send one."""


@dataclass(frozen=True)
class Body:
    """value: as read, without own arguments; is_plain: whether orjson writes all of it, inside of other JSON, too."""

    value: Any
    is_standard: bool = True

    def to_bytes(self) -> bytes:
        """Raises RequestRejected (400) where it is too deep to be written anew."""
        try:
            return orjson.dumps(self.value) if self.is_standard else json.dumps(self.value).encode()
        except (orjson.JSONEncodeError, RecursionError) as error:
            raise _rejected("The body is nested too deep.") from error

    @property
    def model(self) -> str | None:
        """The model that it names, None where it names none that can be read."""
        model = self.value.get("model") if isinstance(self.value, dict) else None
        return model if isinstance(model, str) and model else None


def read_body(raw: bytes) -> Body:
    """Raises RequestRejected (400) where vLLM's server could not read it either, or not within the bounds."""
    try:
        value, is_odd = orjson.loads(raw), False
    except orjson.JSONDecodeError as error:
        value, is_odd = _read_nonstandard(raw, error), True
    if is_odd or b"vllm_xargs" in raw or b"\\u" in raw:
        _strip_internal_args(value)
    is_deep = raw.count(b"[") + raw.count(b"{") > MAX_DEPTH and depth(value) > MAX_DEPTH
    return Body(value, is_standard=not is_deep and (not is_odd or _is_standard(value)))


def _read_nonstandard(raw: bytes, error: orjson.JSONDecodeError) -> Any:
    if len(raw) > MAX_NONSTANDARD_BYTES:
        raise _rejected(f"The body is not valid JSON in UTF-8: {error}.") from error
    try:
        return json.loads(raw)
    except json.JSONDecodeError as odd:
        raise _rejected(f"The body is not valid JSON: {odd}.") from odd
    except (ValueError, RecursionError) as odd:  # neither UTF-8, -16 nor -32; a number of thousands of digits
        raise _rejected(f"The body cannot be read: {odd}.") from odd


def _is_standard(value: object) -> bool:
    """Whether orjson writes it as it is: it makes null of NaN, and fails on half a surrogate pair."""
    under_way = [value]
    while under_way:
        each = under_way.pop()
        if isinstance(each, dict):
            under_way += each.values()
        elif isinstance(each, list):
            under_way += each
        elif isinstance(each, float) and not math.isfinite(each):
            return False
    try:
        orjson.dumps(value)
    except orjson.JSONEncodeError:
        return False
    return True


def depth(value: object) -> int:
    """How deep a JSON value is nested, without recursion; no further than what is too deep anyhow."""
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
    """Our own arguments, wherever they are, in place; not by recursion: a client may nest as deep as it likes."""
    under_way = [value]
    while under_way:
        each = under_way.pop()
        if isinstance(each, dict):
            extra = each.get("vllm_xargs")
            if isinstance(extra, dict) and any(name.startswith(INTERNAL_ARG_PREFIX) for name in extra):
                each["vllm_xargs"] = {name: extra[name] for name in extra if not name.startswith(INTERNAL_ARG_PREFIX)}
            under_way += each.values()
        elif isinstance(each, list):
            under_way += each


def _rejected(message: str) -> RequestRejected:
    return RequestRejected(400, "invalid_request", message)
