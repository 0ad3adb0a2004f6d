"""Encode why a node's engine did not answer a request, in one line for the entry: the code and its details.

handoff                      the request is handed off
handoff to i-0123456789      that node has room for it
engine-died 3 alone          the engine's process, the third here, ended before the request had any answer
engine-died 3 beside         other suspects of an engine's death waited there, too
engine-killed 3 alone        the same for an engine that was ended from outside
engine-stuck 3 alone         the same for an engine that was stuck, and is killed for that
reset                        any other code of `core/failure/loss`

An entry decodes a line of a later version to an UnknownLoss.
"""

from __future__ import annotations

from node_agent.core.failure.loss import (
    DEATHS,
    MAX_TEXT_CHARS,
    EngineDeath,
    Handoff,
    Loss,
    LossReason,
    loss_from_code,
)

_TO = f"{LossReason.HANDOFF} to "
_ALONE, _BESIDE = "alone", "beside"
_DEATH_CODES = frozenset(reason.value for reason in DEATHS)
_MAX_NUMBER_CHARS = 20
"""Of an engine's number, which a peer sends."""


def format_loss(loss: Loss) -> str:
    """Encode a loss in one line; an UnknownLoss only as its reason, without what another node sent."""
    match loss:
        case Handoff(target) if target is not None:
            return _TO + target
        case EngineDeath(reason, engine_number, alone):
            return f"{reason} {engine_number} {_ALONE if alone else _BESIDE}"
    return loss.reason.value


def parse_loss(line: str) -> Loss:
    """Decode a line that another node sent."""
    if line == LossReason.HANDOFF.value:
        return Handoff()
    if line.startswith(_TO):
        return Handoff(line.removeprefix(_TO)[:MAX_TEXT_CHARS])
    match line.split(" "):
        case [code, number, beside] if code in _DEATH_CODES and beside in (_ALONE, _BESIDE):
            return EngineDeath(LossReason(code), number[:_MAX_NUMBER_CHARS], beside == _ALONE)
    return loss_from_code(line)
