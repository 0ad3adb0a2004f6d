"""Summaries of measurements."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Spread:
    """Percentiles of many measurements, in their unit."""

    p50: float
    p99: float
    most: float
    count: int

    def to_json(self) -> dict[str, Any]:
        """Return the names and values for the JSON output."""
        return {"p50": self.p50, "p99": self.p99, "max": self.most, "n": self.count}

    def __str__(self) -> str:
        return f"{self.p50:.2f} / {self.p99:.2f} / {self.most:.2f}"


def spread(values: Iterable[float]) -> Spread:
    """Summarize values; of no values at all: not a number, n = 0."""
    ordered = sorted(values)
    if not ordered:
        return Spread(float("nan"), float("nan"), float("nan"), 0)
    last = len(ordered) - 1
    rounded = [round(ordered[round(share * last)], 4) for share in (0.5, 0.99, 1.0)]
    return Spread(rounded[0], rounded[1], rounded[2], len(ordered))
