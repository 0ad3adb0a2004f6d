"""One client's stream of `/v1/responses` or `/v1/messages`, from the first engine to the last.

These routes say nothing of token ids. So an engine with the plug-in tells them beside the events, in events of its own
that no client sees:

    event: synkti-prompt    the digest of the prompt's ids, once
    event: synkti-ids       the ids behind what follows, as a list
    event: synkti-finish    why the generation ended, before the events that end the answer

The next engine is asked the request itself, with all these ids as an argument (`core/continuation/method`: resume, or
forced replay). It tells the answer anew from its beginning, every id and every event is compared with what the client
has, and what is behind that is spliced to it (`core/streams/event_replay`). Rules kept here:

* what was handed out is always a prefix of one unbroken answer;
* the answer is complete only with its last event, and only where the generation ended by itself: an engine that is
  told to go says `response.completed` of half an answer;
* as long as the client has nothing but the answer's opening, the request is asked again whole;
* an engine without the plug-in serves such a stream as well, but where it is lost the stream ends with an error. So it
  is with one that calls tools by itself: what they said is in no id of ours;
* logprobs of ids that an engine was given are nobody's: where the client wants logprobs, it is given those ids only
  whose logprobs the client has;
* for every event there is one line of the journal (`core/journal/records`), from which `restored` makes the same stream
  again.

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
"""What the plug-in says beside the answer (`engine_plugin/synkti_engine/token_id_emitter`)."""

_INCLUDE_LOGPROBS = "message.output_text.logprobs"
"""What a response has to include for its deltas to have them."""

_OPENING_EVENTS = frozenset({"response.created", "response.queued", "response.in_progress", "message_start", "ping"})
"""Events that every engine begins with, whatever it is about to say."""

_ENGINE_DONE = (StreamState.COMPLETE, StreamState.LOST)
_CAN_REQUEST = (StreamState.WAITING, StreamState.LOST)
_METHOD_REASON = "only the engine's parsers make these events, and they have to read every id"


class EventStream(Continuable):
    """See the module; the shell that has connections uses it as it uses a `core/streams/chunk_stream.StreamMachine`.

    events: those of the client; log: the journal's lines; lost_why: in a word, what happened to the last engine;
    lost_error: the error event that it ended with, b"" where there was none; chosen: the way that the current engine
    goes on, None where it answers the whole request.
    """

    def __init__(self, generation: GenerationRequest, stream_id: str, runs: Sequence[EpochRange] = ()) -> None:
        self.generation = generation
        self.writer = SseWriter(generation, stream_id, runs)
        self.journal = bytearray()
        self.state = StreamState.WAITING
        self.loss_reason = ""
        self.engine_error = b""
        self.method_choice: MethodChoice | None = None
        self.engine_attempts = 0
        self._parser = sse.SseParser()
        self._replay = EventReplay()
        self._has_output = False  # the client has more than the opening
        self._prompt_digest: str | None = None
        self._prompt_events = 0  # told by the current engine: one for each generation
        self._is_single_generation = True  # the answer is one generation
        self._ids: list[int] = []
        self._has_token_ids = False  # of any id, also where none of them has led to all that the client is told of it
        self._ids_received = 0  # of the ids, how many the current engine has told
        self._ids_recorded = 0  # of the ids, how many are in lines
        self._ids_settled = 0  # of the ids, how many have led to all that the client is told of them
        self._wants_logprobs = _INCLUDE_LOGPROBS in (generation.body.get("include") or ())
        self._finish_reason: str | None = None  # by the word of the current engine
        self._has_stop_reason = False  # a message's stop_reason was told
        self._has_engine_output = False  # the current engine said more than that

    @property
    def seq(self) -> int:
        """The number of the last event."""
        return self.writer.seq

    @property
    def tokens(self) -> int:
        """Ids generated so far, as far as engines told them."""
        return len(self._ids)

    def method_for(self, able: Collection[str]) -> MethodChoice | None:
        if not self._has_output:
            return None
        if not self._is_single_generation:
            raise ContinuationImpossible("the engine called tools by itself, and their results are known to it alone")
        if not self._has_token_ids:
            raise ContinuationImpossible("the engine, which has no plug-in, reported no token ids")
        for way in (ContinuationMethod.RESUME, ContinuationMethod.FORCED_DECODING):
            if way.value in able:
                return MethodChoice(way, _METHOD_REASON)
        raise ContinuationImpossible(_METHOD_REASON)

    def token_timeout_s(self, by_pace: float) -> float | None:
        """An engine says its opening before it has read the prompt; and one that tells no ids may think in silence."""
        if self._ids_received:
            return by_pace
        return MAX_FIRST_TOKEN_S if self._has_engine_output else None

    def request(self, able: Collection[str] = ()) -> EngineRequest:
        """What the next engine is to be asked, whose node advertises `able`.

        Raises ContinuationImpossible, before anything is asked.
        """
        if self.state not in _CAN_REQUEST:
            raise InvalidTransition(f"a request in state {self.state.value}")
        chosen = self.method_choice = self.method_for(able)
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
        told: dict[str, Any] = {EMIT_IDS: 1}
        if chosen is None:
            self._ids.clear()
            self._has_token_ids = False
            self._prompt_digest, self._ids_recorded, self._ids_settled = None, 0, 0
        else:
            told |= {
                (RESUME_IDS if chosen.method is ContinuationMethod.RESUME else FORCED_IDS): self._ids,
                PER_TOKEN: 1,
            }
        extra = self.generation.body.get("vllm_xargs") or {}
        body = {**self.generation.original_body, "vllm_xargs": {**extra, **told}}
        return EngineRequest(self.generation.route.value, orjson.dumps(body))

    def feed(self, data: bytes) -> bytes:
        """What to hand to the client for `data` of the engine; b"" often. Read `state` afterwards."""
        if self.state in _ENGINE_DONE:
            return b""
        try:
            events = self._parser.feed(data)
        except sse.EventTooLarge:
            return self.on_engine_end("event-too-large")
        out = []
        for name, payload in events:
            if name == LOST_EVENT:
                self.on_engine_end(payload.decode("ascii", "replace"))
            else:
                out.append(self._on_event(name, payload))
            if self.state in _ENGINE_DONE:
                break
        return b"".join(out)

    def on_engine_end(self, why: str) -> bytes:
        """The engine is gone or said its last word. Nothing is ever made here, so there is nothing to hand out."""
        if self.state is StreamState.FINISHED:
            self.state = StreamState.COMPLETE
        elif self.state not in _ENGINE_DONE:
            self.state = StreamState.LOST
            self.loss_reason = why
        return b""

    # an engine's events

    def _on_event(self, name: bytes, payload: bytes) -> bytes:
        if payload == sse.DONE:
            return self.on_engine_end("done-without-finish")
        try:
            told = orjson.loads(payload)
            if name in (IDS_EVENT, PROMPT_EVENT, FINISH_EVENT):
                return self._on_plugin_event(name, told)
            if name == b"error" or told.get("error") or told.get("type") in ("error", "response.failed"):
                self.engine_error = payload
                return self.on_engine_end("error-chunk")
            return self._on_api_event(name, told)
        except ValueError as differs:
            return self.on_engine_end("malformed-chunk" if isinstance(differs, orjson.JSONDecodeError) else "diverged")
        except (TypeError, AttributeError, LookupError):
            return self.on_engine_end("malformed-chunk")  # fields that are missing, or of other types than an engine's

    def _on_plugin_event(self, name: bytes, told: Any) -> bytes:
        """What the plug-in says. Raises ValueError where it differs from what was told before."""
        if name == FINISH_EVENT:
            self._finish_reason = told
            return b"" if told in COMPLETE_REASONS else self.on_engine_end(str(told))
        if name == PROMPT_EVENT:
            self._prompt_events += 1
            self._is_single_generation = self._prompt_events == 1
            if self._is_single_generation and self._prompt_digest not in (None, told):
                raise ValueError("another prompt")
            self._prompt_digest = self._prompt_digest or told
            return b""
        known = self._ids[self._ids_received : self._ids_received + len(told)]
        if known != told[: len(known)]:
            raise ValueError("the continuation's ids differ from what was told")
        self._ids += told[len(known) :]
        self._has_token_ids = self._has_token_ids or bool(self._ids)
        self._ids_received += len(told)
        return b""

    def _on_api_event(self, name: bytes, told: dict[str, Any]) -> bytes:
        self.state = StreamState.STREAMING
        self._has_engine_output = self._has_engine_output or told.get("type") not in _OPENING_EVENTS
        if name == b"message_delta":
            self._has_stop_reason = told["delta"].get("stop_reason") is not None
        is_last = name in TERMINAL_EVENTS
        if is_last and not self._may_end:
            return self.on_engine_end("end-without-finish")
        new = self._replay.new_part(told)
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
        """Whether the generation ended by itself: without the plug-in only a message's stop_reason shows it."""
        if self.generation.route is ApiRoute.MESSAGES and not self._has_stop_reason:
            return False
        return self._finish_reason is not None or not self._has_token_ids

    def _emit(self, name: bytes, event: dict[str, Any]) -> bytes:
        """The client's event; its line has the ids that were told since the last."""
        extra: dict[str, Any] = {"name": name.decode(), "chunk": event}
        if self._prompt_digest is not None and not self._ids_recorded:
            extra["prompt"] = self._prompt_digest
        if not self._is_single_generation:
            extra["several"] = True
        at, self._ids_recorded = self._ids_recorded, len(self._ids)
        self.journal += encode_record(0, at, self._ids[at:], "", NO_RESUME_POINT, extra)
        return self._encode(name, event)

    def _encode(self, name: bytes, event: dict[str, Any]) -> bytes:
        self._has_output = self._has_output or event.get("type") not in _OPENING_EVENTS
        if event.get("logprobs") or not self._wants_logprobs:
            self._ids_settled = len(self._ids)
        return self.writer.encode(orjson.dumps(event), name)

    # from the journal

    def apply_record(self, line: Record | TokenRecord) -> bytes:
        """Account for a line of this stream's journal; its event, made again. Raises ValueError."""
        if isinstance(line, TokenRecord) or not line.extra or not isinstance(line.extra.get("chunk"), dict):
            raise ValueError("a line of another kind of stream")
        self._prompt_digest = line.extra.get("prompt", self._prompt_digest)
        self._is_single_generation = not line.extra.get("several")
        self._ids[line.at :] = line.ids
        self._ids_recorded = len(self._ids)
        self._has_token_ids = self._has_token_ids or bool(self._ids)
        event, name = line.extra["chunk"], str(line.extra.get("name", "")).encode()
        if self._replay.new_part(event) is None:
            raise ValueError("an event that was told before")
        if name in TERMINAL_EVENTS:
            self.state = StreamState.FINISHED
        return self._encode(name, event)

    def finish_restore(self, written: bytes) -> None:
        """All lines were read: what comes next is the rest of the answer, from another engine."""
        self.journal += written
        if self.seq and self.state is not StreamState.FINISHED:
            self.state, self.loss_reason = StreamState.LOST, "entry-lost"
