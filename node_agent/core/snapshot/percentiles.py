"""Summarize pauses."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def pauses_to_json(pauses_s: Iterable[float]) -> dict[str, Any] | None:
    """Return the count, the median, the 95th and 99th percentile and the longest of pauses, in ms; None without one.

    A percentile is the smallest pause that so many of them do not exceed. pauses_s: in seconds.
    """
    ordered = sorted(pauses_s)
    if not ordered:
        return None
    return {
        "count": len(ordered),
        **{f"p{share}": _ms(ordered[-(-share * len(ordered) // 100) - 1]) for share in (50, 95, 99)},
        "longest": _ms(ordered[-1]),
    }


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 1)
