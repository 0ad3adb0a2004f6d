"""Instants as they travel: RFC 3339 in UTC outside, unix seconds (float) inside."""

from __future__ import annotations

from datetime import UTC, datetime


def parse_instant(text: str) -> float:
    """Unix seconds of an RFC 3339 instant (`2026-11-23T10:00:00Z`, fractions and offsets allowed).

    Raises ValueError for anything else, an instant without an offset included: whose midnight would it be?
    """
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"instant without an offset: {text!r}")
    return moment.timestamp()


def format_instant(at: float) -> str:
    """RFC 3339 in UTC with milliseconds: sorts as text in the order of time."""
    moment = datetime.fromtimestamp(at, tz=UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"
