"""Split work on many streams into turns of the event loop, so that no client waits for all of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

_T = TypeVar("_T")


def batches(items: Sequence[_T], size: int) -> Iterator[Sequence[_T]]:
    """Yield the items in order, `size` at a time. The caller awaits `asyncio.sleep(0)` after each batch."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
