"""A JSON object as a stream holds it for as long as it lasts: what is large in it as bytes, read again when needed.

Python's objects of a document take up to thirty times its bytes, and a stream looks at its prompt again only when
another engine has to be asked. What is small (numbers, short texts) is there as it is, since it is looked at often.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

SMALL_CHARACTERS = 256


class Packed(Mapping[str, Any]):
    """A read-only mapping; each look at something large makes it anew, so that no two share what they got."""

    __slots__ = ("_values",)

    def __init__(self, value: Mapping[str, Any]) -> None:
        self._values: dict[str, Any] = {
            key: each if _is_small(each) else _Written(orjson.dumps(each)) for key, each in value.items()
        }

    def __getitem__(self, key: str) -> Any:
        return _unpacked(self._values[key])

    def get(self, key: str, default: Any = None) -> Any:
        value = self._values.get(key, default)
        return value if value is None else _unpacked(value)

    def __contains__(self, key: object) -> bool:
        return key in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    @property
    def as_written(self) -> dict[str, Any]:
        """For `orjson.dumps`: what is large stands there as it was written, and is not read for it."""
        return {
            key: orjson.Fragment(value.json) if isinstance(value, _Written) else value
            for key, value in self._values.items()
        }


@dataclass(frozen=True, slots=True)
class _Written:
    """A value as it was written."""

    json: bytes


def _is_small(value: object) -> bool:
    if isinstance(value, str):
        return len(value) <= SMALL_CHARACTERS
    return value is None or isinstance(value, (bool, int, float))


def _unpacked(value: Any) -> Any:
    return orjson.loads(value.json) if isinstance(value, _Written) else value
