"""Converts instants: RFC 3339 in UTC outside, unix seconds (float) inside."""

from __future__ import annotations

from datetime import UTC, datetime

_LONGEST = 64
"""Characters: twice as many as the longest instant."""

_LAST = 253_402_300_799.0
"""The last second of the year 9999: RFC 3339 has four digits for a year."""


def parse_instant(text: str) -> float:
    """Return an RFC 3339 instant (`2026-11-23T10:00:00Z`, fractions and offsets allowed) in unix seconds.

    Raises:
        ValueError: It is anything else, an instant without an offset (its zone is unknown), or one before 1970, which
            none of our clocks ever showed.
    """
    if len(text) > _LONGEST:
        raise ValueError(f"not an instant: {text[:_LONGEST]!r}...")
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"instant without an offset: {text!r}")
    try:
        at = moment.timestamp()
    except OverflowError as error:  # year 1 in a zone east of Greenwich is before year 1
        raise ValueError(f"instant out of range: {text!r}") from error
    if at < 0:
        raise ValueError(f"instant before 1970: {text!r}")
    return at


def format_instant(at: float) -> str:
    """Format as RFC 3339 in UTC with milliseconds, which sorts as text in the order of time; clamped to its range."""
    moment = datetime.fromtimestamp(min(_LAST, max(0.0, at)), tz=UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"
