"""Encode why a node's engine did not answer a request, in one line for the entry: the code and its details.

handoff                      the request is handed off
handoff to i-0123456789      that node has room for it
engine-died 3 alone          the engine's process, the third here, ended before the request had any answer
engine-died 3 beside         other suspects of an engine's death waited there, too
engine-killed 3 alone        the same for an engine that was ended from outside
engine-stuck 3 alone         the same for an engine that was stuck, and is killed for that
reset                        any other code
"""

from __future__ import annotations

from typing import NamedTuple

from node_agent.core.failure.attribution import DEATHS, ENGINE_DIED

HANDOFF = "handoff"
_TO = f"{HANDOFF} to "
_ALONE, _BESIDE = "alone", "beside"
_MAX_NUMBER = 20
"""Characters of an engine's number, which a peer sends."""


class EngineDeath(NamedTuple):
    """The death of an engine."""

    engine_number: str
    """Which of the node's engines it was."""

    alone: bool
    """Whether no other suspect was unanswered there."""

    crashed: bool
    """Whether the engine ended by itself: it was neither stuck nor ended from outside."""


def format_handoff(instance_id: str | None) -> str:
    """Encode a hand-off. instance_id: the node that has room; None where there is none."""
    return HANDOFF if instance_id is None else _TO + instance_id


def format_death(engine_number: int, *, alone: bool, code: str = ENGINE_DIED) -> str:
    """Encode the death of an engine before it answered.

    engine_number: counts those that this agent started.
    code: the death's, one of `core/failure/attribution.DEATHS`.
    """
    return f"{code} {engine_number} {_ALONE if alone else _BESIDE}"


def parse_loss(line: str) -> tuple[str, str | None]:
    """Decode a line: its code, and the node that has room, where there is one. An unknown line is its own code."""
    if line.startswith(_TO):
        return HANDOFF, line.removeprefix(_TO)
    return (line if parse_death(line) is None else line.partition(" ")[0]), None


def parse_death(line: str) -> EngineDeath | None:
    """Decode an engine's death; None where the line is about none."""
    match line.split(" "):
        case [code, number, beside] if code in DEATHS and beside in (_ALONE, _BESIDE):
            return EngineDeath(number[:_MAX_NUMBER], beside == _ALONE, code == ENGINE_DIED)
    return None
