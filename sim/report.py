"""Formats results as a table for people and as JSON."""

from __future__ import annotations

import math
from typing import Any

from sim.figures import Spread

_WIDTH = 46


def to_json(found: Any) -> Any:
    """Convert results to plain values; NaN becomes null."""
    if isinstance(found, Spread):
        return {name: to_json(value) for name, value in found.to_json().items()}
    if isinstance(found, dict):
        return {str(name): to_json(value) for name, value in found.items()}
    return None if isinstance(found, float) and math.isnan(found) else found


def without_cpu(found: Any) -> Any:
    """Return the results that depend on the seed alone, without processor times."""
    if isinstance(found, dict):
        return {name: without_cpu(value) for name, value in found.items() if not name.startswith("cpu")}
    return found


def lines(name: str, found: dict[str, Any], indent: str = "") -> list[str]:
    """Format a measure as lines of a table. Spreads are p50 / p99 / max."""
    table = [f"{indent}{name}"] if not indent else []
    for key, value in found.items():
        if isinstance(value, dict):
            table.append(f"{indent}  {key}")
            table += lines(key, value, indent + "  ")
        else:
            label = f"{indent}  {key.replace('_', ' ')}"
            table.append(f"{label:<{_WIDTH}}{value if not isinstance(value, float) else f'{value:g}'}")
    return table
