"""Read one field of a model's config.json; an error has the field's name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MAX_COUNT = 2**40
"""More than any count in a config.json; a larger one is damaged, and its products would be no memory sizes."""

Config = Mapping[str, Any]


def count(config: Config, name: str, default: int | None = None) -> int:
    """Return a whole number of at least 1. default: where the field is absent or null. Raises ValueError."""
    value = config.get(name)
    if value is None:
        if default is None:
            raise ValueError(f"config.json lacks {name}")
        return default
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < MAX_COUNT:
        raise ValueError(f"config.json has {name}={_shown(value)}, which is no number of at least 1")
    return value


def count_or_zero(config: Config, name: str, default: int = 0) -> int:
    """Return a whole number that may be 0. default: where the field is absent or null. Raises ValueError."""
    return 0 if config.get(name) == 0 else count(config, name, default)


def flag(config: Config, name: str, *, default: bool) -> bool:
    """Return a boolean. default: where the field is absent or null. Raises ValueError."""
    value = config.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise ValueError(f"config.json has {name}={_shown(value)}, which is not true or false")
    return value


def text(config: Config, name: str) -> str:
    """Return a text; "" where the field is absent or null. Raises ValueError."""
    value = config.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ValueError(f"config.json has {name}={_shown(value)}, which is no text")
    return value


def section(config: Config, name: str) -> Config | None:
    """Return an object; None where the field is absent or null. Raises ValueError."""
    value = config.get(name)
    if value is not None and not isinstance(value, dict):
        raise ValueError(f"config.json has {name}={_shown(value)}, which is no object")
    return value


def _shown(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 40 else shown[:37] + "..."
