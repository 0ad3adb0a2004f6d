"""What the machines of streams (`core/streams/chunk_stream`, `core/streams/event_stream`) and those who run them say to
each other."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum

from node_agent.contract.errors import ContinuationImpossible
from node_agent.core.continuation.method import MethodChoice

LOST_EVENT = b"synkti-lost"
"""With this event an engine node gives a stream back to its entry; its data says why: handoff, reset, silence, ..."""


class StreamState(Enum):
    """Where a stream is; each machine's own page says what leads from one to the other."""

    WAITING = "waiting"
    STREAMING = "streaming"
    AWAITING_NEXT_REQUEST = "between"
    FINISHED = "finished"
    COMPLETE = "complete"
    LOST = "lost"


@dataclass(frozen=True)
class EngineRequest:
    """What to ask the next engine."""

    path: str
    body: bytes


class Continuable(ABC):
    """An answer that another engine may be asked to go on with."""

    @abstractmethod
    def method_for(self, able: Collection[str]) -> MethodChoice | None:
        """How an engine whose node advertises `able` would go on; None where it is asked the whole request.

        Raises ContinuationImpossible where it could not.
        """

    def token_timeout_s(self, by_pace: float) -> float | None:
        """How long the current engine may say nothing, from now on; None for as long as before its first token.

        by_pace: where it says something of every token.
        """
        return by_pace

    def can_continue_on(self, able: Collection[str]) -> bool:
        """Whether an engine whose node advertises `able` could be asked next."""
        try:
            self.method_for(able)
        except ContinuationImpossible:
            return False
        return True
