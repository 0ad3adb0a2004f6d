"""Assemble one client's stream of `/v1/responses` or `/v1/messages` from the streams of one or more engines.

These routes do not send token ids. So an engine with the plug-in adds events of its own, which no client receives:

    event: synkti-prompt    the digest of the prompt's ids, once
    event: synkti-ids       the ids of the events that follow, as a list
    event: synkti-finish    why the generation ended, before the events that end the answer

The next engine receives the request itself, with all these ids as an argument (`core/continuation/method`: resume, or
forced decoding). It sends the answer again from its beginning. Every id and every event is compared with what the
client has, and what follows is spliced to it (`core/streams/event_replay`). Rules:

* the bytes sent to the client are always a prefix of one unbroken answer;
* the answer is complete only with its terminal event, and only where the generation ended by itself: an engine that is
  terminated sends `response.completed` for a partial answer;
* as long as the client has nothing but the answer's opening events, the whole request is sent again;
* an engine without the plug-in serves such a stream too, but if it is lost the stream ends with an error. The same
  holds for an engine that calls tools by itself: no recorded id contains their results;
* an engine computes no logprobs of ids that it was given: where the client wants logprobs, the request has only those
  ids whose logprobs the client has;
* every event adds one record to the journal (`core/journal/records`), from which `apply_record` restores the stream.

    WAITING --first event--> STREAMING --last event--> COMPLETE
       ^                         |
       +------- request() -------+--- anything else ---> LOST
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import orjson

from node_agent.contract.errors import ContinuationImpossible, InvalidTransition
from node_agent.core.continuation.method import ContinuationMethod, MethodChoice
from node_agent.core.continuation.requests import EMIT_IDS, FORCED_IDS, RESUME_IDS
from node_agent.core.continuation.timeouts import MAX_FIRST_TOKEN_S
from node_agent.core.failure.loss import Loss, LossReason, loss_from_code
from node_agent.core.failure.report import parse_loss
from node_agent.core.journal.epochs import EpochRange
from node_agent.core.journal.records import Record, TokenRecord, encode_record
from node_agent.core.journal.token_history import NO_RESUME_POINT
from node_agent.core.openai import sse
from node_agent.core.openai.chunks import COMPLETE_REASONS
from node_agent.core.openai.generation_request import PER_TOKEN, ApiRoute, GenerationRequest
from node_agent.core.streams.end_of_stream import TERMINAL_EVENTS
from node_agent.core.streams.event_replay import EventReplay
from node_agent.core.streams.sse_writer import SseWriter
from node_agent.core.streams.state import LOST_EVENT, Continuable, EngineRequest, StreamState

IDS_EVENT = b"synkti-ids"
PROMPT_EVENT = b"synkti-prompt"
FINISH_EVENT = b"synkti-finish"
"""Events that the plug-in adds to the answer (`engine_plugin/synkti_engine/token_id_emitter`)."""

_INCLUDE_LOGPROBS = "message.output_text.logprobs"
"""Value of a request's `include` for deltas with logprobs."""

_OPENING_EVENTS = frozenset({"response.created", "response.queued", "response.in_progress", "message_start", "ping"})
"""Events that every engine starts with, whatever the answer is."""

_ENGINE_DONE = (StreamState.COMPLETE, StreamState.LOST)
_CAN_REQUEST = (StreamState.WAITING, StreamState.LOST)
_METHOD_REASON = "only the engine's parsers make these events, and they have to read every id"


class EventStream(Continuable):
    """The state machine of a stream of named events, with the interface of `core/streams/chunk_stream.ChunkStream`."""

    def __init__(self, generation: GenerationRequest, stream_id: str, ranges: Sequence[EpochRange] = ()) -> None:
        self.generation = generation
        self.writer = SseWriter(generation, stream_id, ranges)
        self.journal = bytearray()  # the encoded records
        self.state = StreamState.WAITING
        self.loss_reason: Loss = LossReason.OTHER  # of the last engine; to be read in LOST
        self.engine_error = b""  # the error event that the last engine ended with, b"" for none
        self.method_choice: MethodChoice | None = None  # None: the current engine answers the whole request
        self.engine_attempts = 0
        self._parser = sse.SseParser()
        self._replay = EventReplay()
        self._has_output = False  # the client has more than the opening events
        self._prompt_digest: str | None = None
        self._prompt_events = 0  # from the current engine: one for each generation
        self._is_single_generation = True  # the answer is one generation
        self._ids: list[int] = []
        self._has_token_ids = False  # also where the client does not have the full output of any id
        self._ids_received = 0  # how many ids the current engine has sent
        self._ids_recorded = 0  # how many ids are in records
        self._ids_settled = 0  # how many ids have their full output at the client
        self._wants_logprobs = _INCLUDE_LOGPROBS in (generation.body.get("include") or ())
        self._finish_reason: str | None = None  # as the current engine sent it
        self._has_stop_reason = False  # a message's stop_reason was received
        self._has_engine_output = False  # the current engine sent more than the opening events

    @property
    def seq(self) -> int:
        """The number of the last event."""
        return self.writer.seq

    @property
    def tokens(self) -> int:
        """Ids generated so far, as the engines reported them."""
        return len(self._ids)

    def method_for(self, supported_methods: Collection[str]) -> MethodChoice | None:
        if not self._has_output:
            return None
        if not self._is_single_generation:
            raise ContinuationImpossible("the engine called tools by itself, and their results are known to it alone")
        if not self._has_token_ids:
            raise ContinuationImpossible("the engine, which has no plug-in, reported no token ids")
        for candidate in (ContinuationMethod.RESUME, ContinuationMethod.FORCED_DECODING):
            if candidate.value in supported_methods:
                return MethodChoice(candidate, _METHOD_REASON)
        raise ContinuationImpossible(_METHOD_REASON)

    def token_timeout_s(self, inter_token_s: float) -> float | None:
        # Opening events come before the prefill; an engine that reports no ids may reason without any output.
        if self._ids_received:
            return inter_token_s
        return MAX_FIRST_TOKEN_S if self._has_engine_output else None

    def request(self, supported_methods: Collection[str] = ()) -> EngineRequest:
        """Build the request for the next engine, whose node advertises `supported_methods`.

        Raises ContinuationImpossible where that engine cannot continue.
        """
        if self.state not in _CAN_REQUEST:
            raise InvalidTransition(f"a request in state {self.state.value}")
        chosen = self.method_choice = self.method_for(supported_methods)
        if self.engine_attempts or self.seq:
            self._replay.restart()
        self.engine_attempts += 1
        self.engine_error = b""
        self.state = StreamState.WAITING
        self._parser = sse.SseParser()
        if self._wants_logprobs:
            del self._ids[self._ids_settled :]
            self._ids_recorded = min(self._ids_recorded, self._ids_settled)
        self._ids_received, self._prompt_events, self._finish_reason = 0, 0, None
        self._has_stop_reason = self._has_engine_output = False
        arguments: dict[str, Any] = {EMIT_IDS: 1}
        if chosen is None:
            self._ids.clear()
            self._has_token_ids = False
            self._prompt_digest, self._ids_recorded, self._ids_settled = None, 0, 0
        else:
            arguments |= {
                (RESUME_IDS if chosen.method is ContinuationMethod.RESUME else FORCED_IDS): self._ids,
                PER_TOKEN: 1,
            }
        extra = self.generation.body.get("vllm_xargs") or {}
        body = {**self.generation.original_body, "vllm_xargs": {**extra, **arguments}}
        return EngineRequest(self.generation.route.value, orjson.dumps(body))

    def feed(self, data: bytes) -> bytes:
        """Process `data` of the engine; return the client's bytes for it, often b"". Read `state` afterwards."""
        if self.state in _ENGINE_DONE:
            return b""
        try:
            events = self._parser.feed(data)
        except sse.EventTooLarge:
            return self.on_engine_end(LossReason.EVENT_TOO_LARGE)
        out = []
        for name, payload in events:
            if name == LOST_EVENT:
                self.on_engine_end(parse_loss(payload.decode("ascii", "replace")))
            else:
                out.append(self._on_event(name, payload))
            if self.state in _ENGINE_DONE:
                break
        return b"".join(out)

    def on_engine_end(self, reason: Loss) -> bytes:
        """End the current engine's stream. This class builds no events, so it returns b""."""
        if self.state is StreamState.FINISHED:
            self.state = StreamState.COMPLETE
        elif self.state not in _ENGINE_DONE:
            self.state = StreamState.LOST
            self.loss_reason = reason
        return b""

    # an engine's events

    def _on_event(self, name: bytes, payload: bytes) -> bytes:
        if payload == sse.DONE:
            return self.on_engine_end(LossReason.DONE_WITHOUT_FINISH)
        try:
            event = orjson.loads(payload)
            if name in (IDS_EVENT, PROMPT_EVENT, FINISH_EVENT):
                return self._on_plugin_event(name, event)
            if name == b"error" or event.get("error") or event.get("type") in ("error", "response.failed"):
                self.engine_error = payload
                return self.on_engine_end(LossReason.ERROR_CHUNK)
            return self._on_api_event(name, event)
        except ValueError as error:
            return self.on_engine_end(
                LossReason.MALFORMED_CHUNK if isinstance(error, orjson.JSONDecodeError) else LossReason.DIVERGED
            )
        except (TypeError, AttributeError, LookupError):
            return self.on_engine_end(LossReason.MALFORMED_CHUNK)  # missing fields, or of other types

    def _on_plugin_event(self, name: bytes, value: Any) -> bytes:
        """Process an event of the plug-in. Raises ValueError where it differs from what was received before."""
        if name == FINISH_EVENT:
            self._finish_reason = value
            return b"" if value in COMPLETE_REASONS else self.on_engine_end(loss_from_code(str(value)))
        if name == PROMPT_EVENT:
            self._prompt_events += 1
            self._is_single_generation = self._prompt_events == 1
            if self._is_single_generation and self._prompt_digest not in (None, value):
                raise ValueError("another prompt")
            self._prompt_digest = self._prompt_digest or value
            return b""
        known = self._ids[self._ids_received : self._ids_received + len(value)]
        if known != value[: len(known)]:
            raise ValueError("the continuation's ids differ from what was received")
        self._ids += value[len(known) :]
        self._has_token_ids = self._has_token_ids or bool(self._ids)
        self._ids_received += len(value)
        return b""

    def _on_api_event(self, name: bytes, event: dict[str, Any]) -> bytes:
        self.state = StreamState.STREAMING
        self._has_engine_output = self._has_engine_output or event.get("type") not in _OPENING_EVENTS
        if name == b"message_delta":
            self._has_stop_reason = event["delta"].get("stop_reason") is not None
        is_last = name in TERMINAL_EVENTS
        if is_last and not self._may_end:
            return self.on_engine_end(LossReason.END_WITHOUT_FINISH)
        new = self._replay.new_part(event)
        if is_last and not self._replay.is_caught_up:
            raise ValueError("the continuation ends before what was delivered")
        if new is None:
            return b""
        out = self._emit(name, new)
        if is_last:
            self.state = StreamState.COMPLETE
        return out

    @property
    def _may_end(self) -> bool:
        """True when the generation ended by itself: without the plug-in only a message's stop_reason shows it."""
        if self.generation.route is ApiRoute.MESSAGES and not self._has_stop_reason:
            return False
        return self._finish_reason is not None or not self._has_token_ids

    def _emit(self, name: bytes, event: dict[str, Any]) -> bytes:
        """Return the client's event; its record has the ids received since the last one."""
        extra: dict[str, Any] = {"name": name.decode(), "chunk": event}
        if self._prompt_digest is not None and not self._ids_recorded:
            extra["prompt"] = self._prompt_digest
        if not self._is_single_generation:
            extra["several"] = True
        start, self._ids_recorded = self._ids_recorded, len(self._ids)
        self.journal += encode_record(0, start, self._ids[start:], "", NO_RESUME_POINT, extra)
        return self._encode(name, event)

    def _encode(self, name: bytes, event: dict[str, Any]) -> bytes:
        self._has_output = self._has_output or event.get("type") not in _OPENING_EVENTS
        if event.get("logprobs") or not self._wants_logprobs:
            self._ids_settled = len(self._ids)
        return self.writer.encode(orjson.dumps(event), name)

    # from the journal

    def apply_record(self, record: Record | TokenRecord) -> bytes:
        """Apply a record of this stream's journal; return its event, built again. Raises ValueError."""
        if isinstance(record, TokenRecord) or not record.extra or not isinstance(record.extra.get("chunk"), dict):
            raise ValueError("a record of another kind of stream")
        self._prompt_digest = record.extra.get("prompt", self._prompt_digest)
        self._is_single_generation = not record.extra.get("several")
        self._ids[record.at :] = record.ids
        self._ids_recorded = len(self._ids)
        self._has_token_ids = self._has_token_ids or bool(self._ids)
        event, name = record.extra["chunk"], str(record.extra.get("name", "")).encode()
        if self._replay.new_part(event) is None:
            raise ValueError("an event that was delivered before")
        if name in TERMINAL_EVENTS:
            self.state = StreamState.FINISHED
        return self._encode(name, event)

    def finish_restore(self, journal: bytes) -> None:
        """Finish restoring from `journal`: FINISHED if the answer ended, else LOST to another engine."""
        self.journal += journal
        if self.seq and self.state is not StreamState.FINISHED:
            self.state, self.loss_reason = StreamState.LOST, LossReason.ENTRY_LOST
