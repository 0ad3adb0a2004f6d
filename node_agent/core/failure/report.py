"""What a node says of a request that its engine did not answer, in one line: why, and what the entry needs beside it.

handoff                      it is given back
handoff to i-0123456789      and that node has room for it
engine-died 3 alone          the engine's process, the third here, ended before the request had any answer
engine-died 3 beside         so did others that were suspected of having ended an engine before
engine-stuck 3 alone         the same of an engine that did nothing any more, and is ended for that
reset                        any other reason, in one word
"""

from __future__ import annotations

from typing import NamedTuple

from node_agent.core.failure.attribution import ENGINE_DIED, ENGINE_STUCK

HANDOFF = "handoff"
_TO = f"{HANDOFF} to "
_ALONE, _BESIDE = "alone", "beside"
_MAX_NUMBER = 20
"""Characters: it comes from a peer."""


class EngineDeath(NamedTuple):
    """life: which of the node's engines it was; alone: whether no other suspect was unanswered there."""

    engine_number: str
    alone: bool


def format_handoff(instance_id: str | None) -> str:
    """The line for a request that is given back."""
    return HANDOFF if instance_id is None else _TO + instance_id


def format_death(life: int, *, alone: bool, why: str = ENGINE_DIED) -> str:
    """The line for a request that an engine died under. life: which one, of those that this agent started."""
    return f"{why} {life} {_ALONE if alone else _BESIDE}"


def parse_loss(line: str) -> tuple[str, str | None]:
    """The reason alone, and the node that has room, where there is one. A line of an unknown form is its own reason."""
    if line.startswith(_TO):
        return HANDOFF, line.removeprefix(_TO)
    return (line if parse_death(line) is None else line.partition(" ")[0]), None


def parse_death(line: str) -> EngineDeath | None:
    """What a line says of an engine that died; None where it says nothing of one."""
    match line.split(" "):
        case [why, life, beside] if why in (ENGINE_DIED, ENGINE_STUCK) and beside in (_ALONE, _BESIDE):
            return EngineDeath(life[:_MAX_NUMBER], beside == _ALONE)
    return None
