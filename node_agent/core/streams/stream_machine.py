"""Define the interface between the state machines of streams (`chunk_stream`, `event_stream`) and their callers.

The base class has what both kinds of stream share: the state (`core/streams/state`), reading an engine's events, and
the end of an engine. The caller connects to engines and moves bytes: it calls `request` before each engine, passes
received bytes to `feed`, calls `on_engine_end` where the bytes end, and reads `state` after each of them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection
from dataclasses import dataclass

import orjson

from node_agent.contract.errors import ContinuationImpossible
from node_agent.core.continuation.method import MethodChoice
from node_agent.core.failure.loss import Loss, LossReason
from node_agent.core.failure.report import parse_loss
from node_agent.core.journal.records import Record, TokenRecord
from node_agent.core.openai import sse
from node_agent.core.openai.generation_request import GenerationRequest
from node_agent.core.streams.sse_writer import SseWriter
from node_agent.core.streams.state import ENGINE_DONE, LOST_EVENT, StreamEvent, StreamState, transition


@dataclass(frozen=True)
class EngineRequest:
    """The request for the next engine."""

    path: str
    body: bytes


class StreamMachine(ABC):
    """The state machine of one client's stream.

    Args:
        writer: encodes the client's events.
        journal: the encoded records of the delivered events; they are appended to it.
    """

    def __init__(self, writer: SseWriter, journal: bytearray) -> None:
        self.writer = writer
        self.journal = journal
        self.loss_reason: Loss = LossReason.OTHER  # of the last engine; to be read in LOST
        self.engine_error = b""  # the error event that the last engine ended with, b"" for none
        self.method_choice: MethodChoice | None = None  # None: the current engine answers the whole request
        self.engine_attempts = 0  # requests to engines so far
        self._state = StreamState.WAITING
        self._parser = sse.SseParser()

    @property
    def state(self) -> StreamState:
        """The state of the stream."""
        return self._state

    @property
    def generation(self) -> GenerationRequest:
        """The client's request, with the texts of its prompts once they are read."""
        return self.writer.generation

    @property
    def seq(self) -> int:
        """The number of the last event."""
        return self.writer.seq

    @property
    @abstractmethod
    def tokens(self) -> int:
        """Ids generated so far, as the engines reported them."""

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the prompts as an engine returned them; 0 where it did not."""
        return 0

    # continuation

    @abstractmethod
    def method_for(self, supported_methods: Collection[str]) -> MethodChoice | None:
        """Choose how an engine whose node advertises `supported_methods` continues; None for the whole request again.

        Raises ContinuationImpossible where it cannot.
        """

    def can_continue_on(self, supported_methods: Collection[str]) -> bool:
        """Return whether an engine whose node advertises `supported_methods` can be next."""
        try:
            self.method_for(supported_methods)
        except ContinuationImpossible:
            return False
        return True

    def token_timeout_s(self, inter_token_s: float) -> float | None:
        """Return how long the current engine may send nothing from now on; None for the first token's timeout.

        inter_token_s: the timeout where the engine sends something for every token.
        """
        return inter_token_s

    @abstractmethod
    def request(self, supported_methods: Collection[str] = ()) -> EngineRequest:
        """Build the request for the next engine, whose node advertises `supported_methods`.

        Raises ContinuationImpossible where that engine cannot continue, InvalidTransition where the current engine is
        not done.
        """

    def _begin_request(self) -> None:
        self._advance(StreamEvent.REQUESTED)
        self._parser = sse.SseParser()
        self.engine_error = b""

    def _advance(self, event: StreamEvent) -> None:
        self._state = transition(self._state, event)

    # the current engine

    def feed(self, data: bytes) -> bytes:
        """Process `data` of the engine; return the client's bytes for it, often b"". Read `state` afterwards."""
        if self._state in ENGINE_DONE:
            return b""
        try:
            events = self._parser.feed(data)
        except sse.EventTooLarge:
            return self.on_engine_end(LossReason.EVENT_TOO_LARGE)
        out = []
        for name, payload in events:
            out.append(self._on_event(name, payload))
            if self._state in ENGINE_DONE:
                break
        return b"".join(out)

    def _on_event(self, name: bytes, payload: bytes) -> bytes:
        """Process one event, whatever the engine has put into it; return the client's bytes for it."""
        if name == LOST_EVENT:
            return self.on_engine_end(parse_loss(payload.decode("ascii", "replace")))
        if payload == sse.DONE:
            return self.on_engine_end(LossReason.DONE_WITHOUT_FINISH)
        try:
            return self._on_answer(name, payload)
        except ValueError as error:
            is_malformed = isinstance(error, orjson.JSONDecodeError)
            return self.on_engine_end(LossReason.MALFORMED_CHUNK if is_malformed else LossReason.DIVERGED)
        except (TypeError, OverflowError, AttributeError, LookupError):  # fields are missing, or of other types
            return self.on_engine_end(LossReason.MALFORMED_CHUNK)

    @abstractmethod
    def _on_answer(self, name: bytes, payload: bytes) -> bytes:
        """Process an event of the answer; return the client's bytes for it.

        Raises ValueError where it differs from what the client has, TypeError, OverflowError, AttributeError or
        LookupError where it is no event of the route.
        """

    def _on_error(self, payload: bytes) -> bytes:
        """End the current engine's stream with its error event."""
        self.engine_error = payload
        return self.on_engine_end(LossReason.ERROR_CHUNK)

    def _on_output(self) -> None:
        """Record that the current engine has begun to answer."""
        if self._state is not StreamState.STREAMING:
            self._advance(StreamEvent.OUTPUT)

    def on_engine_end(self, reason: Loss) -> bytes:
        """End the current engine's stream: a loss, or, after the whole answer, the end of the client's stream.

        Only the first call after a request counts. reason: why the engine ended.

        Returns:
            The client's last events, b"" after a loss.
        """
        if self._state in ENGINE_DONE:
            return b""
        self._advance(StreamEvent.ENGINE_ENDED)
        if self._state is StreamState.COMPLETE:
            return self._end_of_stream()
        self.loss_reason = reason
        return b""

    @abstractmethod
    def _end_of_stream(self) -> bytes:
        """Return the events that the client lacks after the whole answer."""

    # from the journal

    @abstractmethod
    def apply_record(self, record: Record | TokenRecord) -> bytes:
        """Apply a record of this stream's journal; return its event, built again. Raises ValueError."""

    @property
    @abstractmethod
    def _has_whole_answer(self) -> bool:
        """True when the records applied so far have the end of the answer."""

    def finish_restore(self, journal: bytes) -> None:
        """Finish restoring from `journal`: FINISHED if the answer ended, else LOST to another engine."""
        self.journal += journal
        if self._has_whole_answer:
            self._advance(StreamEvent.RESTORED_WHOLE)
        elif self.seq:
            self._advance(StreamEvent.RESTORED_PART)
            self.loss_reason = LossReason.ENTRY_LOST
