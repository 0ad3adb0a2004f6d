"""What the machines of streams (`core/stream`, `core/retelling`) and those who run them say to each other."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

LOST_EVENT = b"synkti-lost"
"""With this event an engine node gives a stream back to its entry; its data says why: handoff, reset, silence, ..."""


class StreamState(Enum):
    """Where a stream is; each machine's own page says what leads from one to the other."""

    WAITING = "waiting"
    STREAMING = "streaming"
    BETWEEN = "between"
    FINISHED = "finished"
    COMPLETE = "complete"
    LOST = "lost"


@dataclass(frozen=True)
class EngineRequest:
    """What to ask the next engine."""

    path: str
    body: bytes
