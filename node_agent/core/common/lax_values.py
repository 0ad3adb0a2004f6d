"""Parse values as vLLM does: pydantic's lax mode, which accepts "true" as a boolean and 3.0 or "3" as a whole number.

A request's field is parsed like at the engine, so that both read the same value. A value that these functions reject
with ValueError the engine rejects too, or parses in another way; then only the engine can answer the request.

Source: pydantic's conversion table, and `tests/unit/core/common/test_lax_values.py`, which compares with pydantic
itself.
"""

from __future__ import annotations

import math
import re

_TRUE = frozenset({"1", "on", "t", "true", "y", "yes"})
_FALSE = frozenset({"0", "off", "f", "false", "n", "no"})
_WHOLE = re.compile(r"[+-]?[0-9]+(?:_[0-9]+)*(?:\.0+)?")
_DECIMAL = re.compile(r"[+-]?(?:[0-9]+(?:_[0-9]+)*\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_MAX_TEXT = 64
"""Characters of a number in a text; no client sends a longer one, and a bound costs nothing."""

_MAX_WHOLE_FLOAT = 2.0**63


def read_bool(value: object) -> bool:
    """Parse a boolean. Raises ValueError."""
    if isinstance(value, bool):
        return value
    if isinstance(value, str):
        word = value.lower()
        if word in _TRUE or word in _FALSE:
            return word in _TRUE
    elif isinstance(value, (int, float)) and value in (0, 1):
        return value == 1
    raise ValueError("not a boolean")


def read_int(value: object) -> int:
    """Parse a whole number. Raises ValueError."""
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float) and abs(value) < _MAX_WHOLE_FLOAT and value == math.floor(value):
        return int(value)
    if isinstance(value, str):
        text = value.strip()
        if len(text) <= _MAX_TEXT and _WHOLE.fullmatch(text):
            return int(text.partition(".")[0])
    raise ValueError("not a whole number")


def read_float(value: object) -> float:
    """Parse a finite number. Raises ValueError."""
    if isinstance(value, (int, float)):
        try:
            number = float(value)
        except OverflowError:
            raise ValueError("not a number that a float holds") from None
    elif isinstance(value, str) and len(value) <= _MAX_TEXT and _DECIMAL.fullmatch(value.strip()):
        number = float(value)
    else:
        raise ValueError("not a number")
    if not math.isfinite(number):
        raise ValueError("not a finite number")
    return number
