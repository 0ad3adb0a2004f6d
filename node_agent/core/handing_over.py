"""What a node says of a request that its engine did not answer, in one line: why, and what the entry needs beside it.

handoff                      it is given back
handoff to i-0123456789      and that node has room for it
engine-died 3 alone          the engine's process, the third here, ended before the request had any answer
engine-died 3 beside         so did others that were suspected of having ended an engine before
reset                        any other reason, in one word
"""

from __future__ import annotations

from typing import NamedTuple

from node_agent.core.failure import ENGINE_DIED

HANDOFF = "handoff"
_TO = f"{HANDOFF} to "
_ALONE, _BESIDE = "alone", "beside"
_MAX_LIFE = 20
"""Characters: it comes from a peer."""


class Loss(NamedTuple):
    """why: the reason alone; to: the node that has room, where there is one.

    life: which of the node's engines died, None where none did; alone: whether no other suspect was unanswered there.
    """

    why: str
    to: str | None = None
    life: str | None = None
    alone: bool = False


def handed_to(instance_id: str | None) -> str:
    """The line for a request that is given back."""
    return HANDOFF if instance_id is None else _TO + instance_id


def died(life: int, *, alone: bool) -> str:
    """The line for a request that an engine died under. life: which one, of those that this agent started."""
    return f"{ENGINE_DIED} {life} {_ALONE if alone else _BESIDE}"


def read_loss(line: str) -> Loss:
    """Whatever the line is: one of an unknown form is its own reason."""
    if line.startswith(_TO):
        return Loss(HANDOFF, to=line.removeprefix(_TO))
    match line.split(" "):
        case [why, life, beside] if why == ENGINE_DIED and beside in (_ALONE, _BESIDE):
            return Loss(ENGINE_DIED, life=life[:_MAX_LIFE], alone=beside == _ALONE)
    return Loss(line)
