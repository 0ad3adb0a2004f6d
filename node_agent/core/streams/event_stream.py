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

The states are in `core/streams/state`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import orjson

from node_agent.contract.errors import ContinuationImpossible
from node_agent.core.access.token_estimate import Count, read_event_usage
from node_agent.core.continuation.method import ContinuationMethod, MethodChoice
from node_agent.core.continuation.requests import EMIT_IDS, FORCED_IDS, RESUME_IDS
from node_agent.core.continuation.timeouts import MAX_FIRST_TOKEN_S
from node_agent.core.failure.loss import LossReason, loss_from_code
from node_agent.core.journal.epochs import EpochRange
from node_agent.core.journal.records import Record, TokenRecord, encode_record
from node_agent.core.journal.token_history import NO_RESUME_POINT
from node_agent.core.openai.chunks import COMPLETE_REASONS
from node_agent.core.openai.generation_request import PER_TOKEN, ApiRoute, GenerationRequest
from node_agent.core.streams.end_of_stream import TERMINAL_EVENTS
from node_agent.core.streams.event_replay import EventReplay
from node_agent.core.streams.sse_writer import SseWriter
from node_agent.core.streams.state import StreamEvent
from node_agent.core.streams.stream_machine import EngineRequest, StreamMachine

IDS_EVENT = b"synkti-ids"
PROMPT_EVENT = b"synkti-prompt"
FINISH_EVENT = b"synkti-finish"
"""Events that the plug-in adds to the answer (`engine_plugin/synkti_engine/token_id_emitter`)."""

_INCLUDE_LOGPROBS = "message.output_text.logprobs"
"""Value of a request's `include` for deltas with logprobs."""

_OPENING_EVENTS = frozenset({"response.created", "response.queued", "response.in_progress", "message_start", "ping"})
"""Events that every engine starts with, whatever the answer is."""

_METHOD_REASON = "only the engine's parsers make these events, and they have to read every id"


class EventStream(StreamMachine):
    """The state machine of a stream of named events."""

    def __init__(self, generation: GenerationRequest, stream_id: str, ranges: Sequence[EpochRange] = ()) -> None:
        super().__init__(SseWriter(generation, stream_id, ranges), bytearray())
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
        self._has_terminal_event = False  # the journal that this stream was restored from has the last event
        self._has_engine_output = False  # the current engine sent more than the opening events
        self._usage = Count(0, 0)  # as an engine counted it

    @property
    def tokens(self) -> int:
        """Ids generated so far, as the engines reported them; without the plug-in their count, which comes last."""
        return len(self._ids) or self._usage.answer

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the prompt as an engine counted them; 0 before it did."""
        return self._usage.prompt

    def method_for(self, supported_methods: Collection[str]) -> MethodChoice | None:
        """Choose how an engine continues, as `StreamMachine.method_for`. Raises ContinuationImpossible."""
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
        """Return how long the engine may send nothing, as `StreamMachine.token_timeout_s`.

        Opening events come before the prefill; an engine that reports no ids may reason without any output.
        """
        if self._ids_received:
            return inter_token_s
        return MAX_FIRST_TOKEN_S if self._has_engine_output else None

    def request(self, supported_methods: Collection[str] = ()) -> EngineRequest:
        """Build the request for the next engine, as `StreamMachine.request`."""
        self._begin_request()
        chosen = self.method_choice = self.method_for(supported_methods)
        if self.engine_attempts or self.seq:
            self._replay.restart()
        self.engine_attempts += 1
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

    def _end_of_stream(self) -> bytes:
        return b""  # the terminal event is the last one

    # an engine's events

    def _on_answer(self, name: bytes, payload: bytes) -> bytes:
        event = orjson.loads(payload)
        if name in (IDS_EVENT, PROMPT_EVENT, FINISH_EVENT):
            return self._on_plugin_event(name, event)
        if name == b"error" or event.get("error") or event.get("type") in ("error", "response.failed"):
            return self._on_error(payload)
        return self._on_api_event(name, event)

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
        self._on_output()
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
            self._advance(StreamEvent.TERMINAL_EVENT)
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
        usage = read_event_usage(event)
        if usage is not None:
            self._usage = Count(usage.prompt or self._usage.prompt, usage.answer)
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
        self._has_terminal_event = self._has_terminal_event or name in TERMINAL_EVENTS
        return self._encode(name, event)

    @property
    def _has_whole_answer(self) -> bool:
        return self._has_terminal_event
