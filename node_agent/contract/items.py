"""Reads items of the table: each attribute a text, or a whole number, or a ValueError that names it.

An item is as foreign as anything from outside: another version wrote it, a person edited it, a write was cut in half by
the table's time to live. boto3 gives numbers as Decimal, which also holds NaN and infinity.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

MAX_TEXT = 4_096
"""Characters; the longest of ours is a key of the bucket."""

MAX_WHOLE = 2**63 - 1


def text(item: Mapping[str, Any], name: str) -> str:
    """Read a text. Raises ValueError."""
    value = item.get(name)
    if not isinstance(value, str) or len(value) > MAX_TEXT:
        raise ValueError(f"{name!r} is missing or no text")
    return value


def whole(item: Mapping[str, Any], name: str) -> int:
    """Read a whole number from 0 to MAX_WHOLE. Raises ValueError."""
    value = item.get(name)
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        raise ValueError(f"{name!r} is missing or no number")
    if isinstance(value, Decimal) and not value.is_finite():
        raise ValueError(f"{name!r} is no number: {value}")
    if not 0 <= value <= MAX_WHOLE or value != int(value):
        raise ValueError(f"{name!r} is no whole number from 0 to {MAX_WHOLE}: {value}")
    return int(value)


def seconds(item: Mapping[str, Any], name: str) -> float:
    """Read whole milliseconds as seconds. Raises ValueError."""
    return whole(item, name) / 1000


def mapping(value: object, name: str) -> Mapping[str, Any]:
    """Return the value as a mapping. Raises ValueError."""
    if not isinstance(value, Mapping):
        raise ValueError(f"{name!r} is missing or no map")
    return value


def listing(item: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    """Read a list of maps. Raises ValueError."""
    value = item.get(name)
    if not isinstance(value, list | tuple):
        raise ValueError(f"{name!r} is missing or no list")
    return [mapping(each, name) for each in value]


def texts(item: Mapping[str, Any], name: str) -> list[str]:
    """Read a list of texts. Raises ValueError."""
    value = item.get(name)
    if not isinstance(value, list | tuple):
        raise ValueError(f"{name!r} is missing or no list")
    return [text({name: each}, name) for each in value]
