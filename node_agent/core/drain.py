"""The drain planner: which streams finish on a node that is going, and which are handed off. A pure function.

A stream finishes here if what is left of it fits before the deadline, with a margin; all others are handed off, the
longest first, because they have most to gain from an early start elsewhere. A stream whose length nobody knows, or
that has not begun, is handed off.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

MARGIN_S = 5.0
"""Kept free before the deadline: for closing clients' connections, records and the engine's own end."""


@dataclass(frozen=True)
class ServedStream:
    """A request at this node's engine. remaining_tokens: None where it has no limit of its own."""

    key: int
    remaining_tokens: int | None
    time_per_token_s: float


@dataclass(frozen=True)
class DrainPlan:
    """Keys of streams: `hand_off` in the order in which to do it."""

    finish: tuple[int, ...]
    hand_off: tuple[int, ...]


def plan(streams: Iterable[ServedStream], now: float, deadline: float) -> DrainPlan:
    """now, deadline: unix seconds. Called again while the drain goes on, since engines slow down and speed up."""
    room_s = deadline - now - MARGIN_S
    finish, hand_off = [], []
    for stream in streams:
        left_s = _left_s(stream)
        if left_s is not None and left_s < room_s:
            finish.append(stream.key)
        else:
            hand_off.append((-(left_s if left_s is not None else float("inf")), stream.key))
    return DrainPlan(tuple(finish), tuple(key for _, key in sorted(hand_off)))


def _left_s(stream: ServedStream) -> float | None:
    if stream.remaining_tokens is None or stream.time_per_token_s <= 0:
        return None
    return stream.remaining_tokens * stream.time_per_token_s
