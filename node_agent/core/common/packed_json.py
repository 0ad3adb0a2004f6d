"""Hold a JSON object for a stream's lifetime: its large values as bytes, which are parsed again when they are read.

Python's objects of a document take up to thirty times its bytes, and a stream reads its prompt again only for a request
to another engine. Small values (numbers, short texts) are held as they are, since they are read often.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import orjson

SMALL_CHARACTERS = 256
_SMALL = frozenset({type(None), bool, int, float})


class PackedJson(Mapping[str, Any]):
    """A read-only mapping; each read of a large value parses it again, so that no two readers share an object."""

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
        """Return the value of a key, or `default`; a large value is parsed again by every call."""
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
        """The object for `orjson.dumps`: large values are copied as they were encoded, without parsing."""
        return dict(self._values)


def dump_compact(value: object) -> bytes:
    """Encode JSON that is held for long: orjson's own bytes occupy a block for their largest possible size."""
    return bytes(memoryview(orjson.dumps(value)))
