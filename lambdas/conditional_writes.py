"""Repeat what reads, decides and writes, while other invocations change the record in between."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from lambdas.adapters.ports import RecordChanged

MAX_ATTEMPTS = 3
"""Attempts of a conditional write, each after reading and deciding again."""

_T = TypeVar("_T")


def until_written(record: str, attempt: Callable[[], _T]) -> _T:
    """Return the result of the first attempt whose write was not in a race.

    Args:
        record: which one is written, for the error.
        attempt: reads, decides and writes. It raises RecordChanged where the record changed since it was read.

    Raises:
        RecordChanged: every attempt lost a race: the invocation should fail, and EventBridge retries it later.
    """
    for _ in range(MAX_ATTEMPTS):
        try:
            return attempt()
        except RecordChanged:
            continue
    raise RecordChanged(f"{record} changed {MAX_ATTEMPTS} times while it was written")
