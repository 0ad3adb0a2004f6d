"""A request's body for as long as its stream lasts: large lists and objects as the JSON that they are.

As Python objects a document takes ten to fifty times its bytes; a stream needs it at its beginning, and again only
where another engine has to go on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import orjson

SMALL_BYTES = 4 * 1024
"""A body that is kept as it is: to write and read it again would cost more than it saves."""


class _Packed:
    """A list or an object, as JSON."""

    __slots__ = ("raw",)

    def __init__(self, raw: bytes) -> None:
        self.raw = raw


def _packed(value: Any) -> Any:
    return _Packed(orjson.dumps(value)) if value and isinstance(value, (list, dict)) else value


def _unpacked(value: Any) -> Any:
    return orjson.loads(value.raw) if isinstance(value, _Packed) else value


class KeptBody(Mapping[str, Any]):
    """A body. A field that is a list or an object is made anew each time that it is read."""

    def __init__(self, body: Mapping[str, Any]) -> None:
        self._fields = {name: _packed(value) for name, value in body.items()}

    def __getitem__(self, name: str) -> Any:
        return _unpacked(self._fields[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)

    def __contains__(self, name: object) -> bool:
        return name in self._fields

    def to_write(self) -> dict[str, Any]:
        """The fields as orjson writes them: what was JSON is not read for it."""
        return {
            name: orjson.Fragment(value.raw) if isinstance(value, _Packed) else value
            for name, value in self._fields.items()
        }


class KeptItems(Sequence[Any]):
    """Prompts of a request, as many as there are: a list of ids is made anew each time that it is read."""

    def __init__(self, items: Sequence[Any]) -> None:
        self._items = [_packed(item) for item in items]

    def __getitem__(self, at: Any) -> Any:
        return [_unpacked(item) for item in self._items[at]] if isinstance(at, slice) else _unpacked(self._items[at])

    def __len__(self) -> int:
        return len(self._items)


def to_write(body: Mapping[str, Any]) -> dict[str, Any]:
    """A body's fields, for orjson."""
    return body.to_write() if isinstance(body, KeptBody) else dict(body)
