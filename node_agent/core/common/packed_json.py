"""A JSON object as a stream holds it for as long as it lasts: what is large in it as bytes, read again when needed.

Python's objects of a document take up to thirty times its bytes, and a stream looks at its prompt again only when
another engine has to be asked. What is small (numbers, short texts) is there as it is, since it is looked at often.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import orjson

SMALL_CHARACTERS = 256
_SMALL = frozenset({type(None), bool, int, float})


class PackedJson(Mapping[str, Any]):
    """A read-only mapping; each look at something large makes it anew, so that no two share what they got."""

    __slots__ = ("_large", "_values")

    def __init__(self, value: Mapping[str, Any]) -> None:
        self._values = dict(value)
        self._large: dict[str, bytes] = {}
        for key, each in value.items():
            if type(each) in _SMALL or (type(each) is str and len(each) <= SMALL_CHARACTERS):
                continue
            written = self._large[key] = dump_compact(each)
            self._values[key] = orjson.Fragment(written)

    def __getitem__(self, key: str) -> Any:
        if key in self._large:
            return orjson.loads(self._large[key])
        return self._values[key]

    def get(self, key: str, default: Any = None) -> Any:
        if key in self._large:
            return orjson.loads(self._large[key])
        return self._values.get(key, default)

    def __contains__(self, key: object) -> bool:
        return key in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    @property
    def as_written(self) -> dict[str, Any]:
        """For `orjson.dumps`: what is large stands there as it was written, and is not read for it."""
        return dict(self._values)


def dump_compact(value: object) -> bytes:
    """JSON to be held for long: orjson's bytes stand in a block for the longest that they could have been."""
    return bytes(memoryview(orjson.dumps(value)))
