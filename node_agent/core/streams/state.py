"""Define the interface between the stream state machines (`chunk_stream`, `event_stream`) and their callers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum

from node_agent.contract.errors import ContinuationImpossible
from node_agent.core.continuation.method import MethodChoice

LOST_EVENT = b"synkti-lost"
"""An engine node returns a stream to its entry with this event; its data is a line of `core/failure/report`."""


class StreamState(Enum):
    """The state of a stream; each state machine documents its transitions."""

    WAITING = "waiting"
    STREAMING = "streaming"
    AWAITING_NEXT_REQUEST = "awaiting-next-request"
    FINISHED = "finished"
    COMPLETE = "complete"
    LOST = "lost"


@dataclass(frozen=True)
class EngineRequest:
    """The request for the next engine."""

    path: str
    body: bytes


class Continuable(ABC):
    """An answer that another engine can continue."""

    @abstractmethod
    def method_for(self, supported_methods: Collection[str]) -> MethodChoice | None:
        """Choose how an engine whose node advertises `supported_methods` continues; None for the whole request again.

        Raises ContinuationImpossible where it cannot.
        """

    def token_timeout_s(self, inter_token_s: float) -> float | None:
        """Return how long the current engine may send nothing from now on; None for the first token's timeout.

        inter_token_s: the timeout where the engine sends something for every token.
        """
        return inter_token_s

    def can_continue_on(self, supported_methods: Collection[str]) -> bool:
        """Return whether an engine whose node advertises `supported_methods` can be next."""
        try:
            self.method_for(supported_methods)
        except ContinuationImpossible:
            return False
        return True
