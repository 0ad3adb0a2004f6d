"""A value that was read from AWS, GitHub or a file, or why it could not be read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias, TypeVar


@dataclass(frozen=True)
class Unavailable:
    """An input that could not be read, with the reason."""

    reason: str


_T = TypeVar("_T")
Result: TypeAlias = _T | Unavailable
"""A value, or why it could not be read."""
