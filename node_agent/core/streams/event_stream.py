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
from node_agent.core.continuation.requests import FORCED_IDS, RESUME_IDS, TELL_IDS
from node_agent.core.continuation.timeouts import MAX_FIRST_TOKEN_S
from node_agent.core.journal.epochs import EpochRange
from node_agent.core.journal.records import Record, TokenRecord, write_line
from node_agent.core.journal.token_history import NO_MARK
from node_agent.core.openai import sse
from node_agent.core.openai.chunks import COMPLETE_REASONS
from node_agent.core.openai.generation_request import APART, ApiRoute, GenerationRequest
from node_agent.core.streams.end_of_stream import TERMINAL_EVENTS
from node_agent.core.streams.event_replay import EventReplay
from node_agent.core.streams.sse_writer import SseWriter
from node_agent.core.streams.state import LOST_EVENT, Continuable, EngineRequest, StreamState

IDS_EVENT = b"synkti-ids"
PROMPT_EVENT = b"synkti-prompt"
FINISH_EVENT = b"synkti-finish"
"""What the plug-in says beside the answer (`engine_plugin/synkti_engine/token_id_emitter`)."""

_LOGPROBS = "message.output_text.logprobs"
"""What a response has to include for its deltas to have them."""

_OPENINGS = frozenset({"response.created", "response.queued", "response.in_progress", "message_start", "ping"})
"""Events that every engine begins with, whatever it is about to say."""

_OVER = (StreamState.COMPLETE, StreamState.LOST)
_MAY_ASK = (StreamState.WAITING, StreamState.LOST)
_REASON = "only the engine's parsers make these events, and they have to read every id"


class EventStream(Continuable):
    """See the module; the shell that has connections uses it as it uses a `core/streams/chunk_stream.StreamMachine`.

    events: those of the client; log: the journal's lines; lost_why: in a word, what happened to the last engine;
    lost_error: the error event that it ended with, b"" where there was none; chosen: the way that the current engine
    goes on, None where it answers the whole request.
    """

    def __init__(self, generation: GenerationRequest, stream_id: str, runs: Sequence[EpochRange] = ()) -> None:
        self.generation = generation
        self.events = SseWriter(generation, stream_id, runs)
        self.log = bytearray()
        self.state = StreamState.WAITING
        self.lost_why = ""
        self.lost_error = b""
        self.chosen: MethodChoice | None = None
        self.attempts = 0
        self._parser = sse.SseParser()
        self._passages = EventReplay()
        self._was_heard = False  # the client has more than the opening
        self._prompt: str | None = None
        self._prompts = 0  # told by the current engine: one for each generation
        self._is_single = True  # the answer is one generation
        self._ids: list[int] = []
        self._was_told = False  # of any id, also where none of them has led to all that the client is told of it
        self._repeated = 0  # of the ids, how many the current engine has told
        self._written = 0  # of the ids, how many are in lines
        self._settled = 0  # of the ids, how many have led to all that the client is told of them
        self._wants_logprobs = _LOGPROBS in (generation.body.get("include") or ())
        self._finish: str | None = None  # by the word of the current engine
        self._is_stopped = False  # a message's stop_reason was told
        self._is_past_opening = False  # the current engine said more than that

    @property
    def seq(self) -> int:
        """The number of the last event."""
        return self.events.seq

    @property
    def tokens(self) -> int:
        """Ids generated so far, as far as engines told them."""
        return len(self._ids)

    def way_at(self, able: Collection[str]) -> MethodChoice | None:
        if not self._was_heard:
            return None
        if not self._is_single:
            raise ContinuationImpossible("the engine called tools by itself, and their results are known to it alone")
        if not self._was_told:
            raise ContinuationImpossible("the engine, which has no plug-in, reported no token ids")
        for way in (ContinuationMethod.RESUME, ContinuationMethod.FORCED):
            if way.value in able:
                return MethodChoice(way, _REASON)
        raise ContinuationImpossible(_REASON)

    def silence_s(self, by_pace: float) -> float | None:
        """An engine says its opening before it has read the prompt; and one that tells no ids may think in silence."""
        if self._repeated:
            return by_pace
        return MAX_FIRST_TOKEN_S if self._is_past_opening else None

    def request(self, able: Collection[str] = ()) -> EngineRequest:
        """What the next engine is to be asked, whose node advertises `able`.

        Raises ContinuationImpossible, before anything is asked.
        """
        if self.state not in _MAY_ASK:
            raise InvalidTransition(f"a request in state {self.state.value}")
        chosen = self.chosen = self.way_at(able)
        if self.attempts or self.seq:
            self._passages.retell()
        self.attempts += 1
        self.lost_error = b""
        self.state = StreamState.WAITING
        self._parser = sse.SseParser()
        if self._wants_logprobs:
            del self._ids[self._settled :]
            self._written = min(self._written, self._settled)
        self._repeated, self._prompts, self._finish = 0, 0, None
        self._is_stopped = self._is_past_opening = False
        told: dict[str, Any] = {TELL_IDS: 1}
        if chosen is None:
            self._ids.clear()
            self._was_told = False
            self._prompt, self._written, self._settled = None, 0, 0
        else:
            told |= {(RESUME_IDS if chosen.way is ContinuationMethod.RESUME else FORCED_IDS): self._ids, APART: 1}
        extra = self.generation.body.get("vllm_xargs") or {}
        body = {**self.generation.as_asked, "vllm_xargs": {**extra, **told}}
        return EngineRequest(self.generation.kind.value, orjson.dumps(body))

    def feed(self, data: bytes) -> bytes:
        """What to hand to the client for `data` of the engine; b"" often. Read `state` afterwards."""
        if self.state in _OVER:
            return b""
        try:
            events = self._parser.feed(data)
        except sse.EventTooLarge:
            return self.lose("event-too-large")
        out = []
        for name, payload in events:
            if name == LOST_EVENT:
                self.lose(payload.decode("ascii", "replace"))
            else:
                out.append(self._event(name, payload))
            if self.state in _OVER:
                break
        return b"".join(out)

    def lose(self, why: str) -> bytes:
        """The engine is gone or said its last word. Nothing is ever made here, so there is nothing to hand out."""
        if self.state is StreamState.FINISHED:
            self.state = StreamState.COMPLETE
        elif self.state not in _OVER:
            self.state = StreamState.LOST
            self.lost_why = why
        return b""

    # an engine's events

    def _event(self, name: bytes, payload: bytes) -> bytes:
        if payload == sse.DONE:
            return self.lose("done-without-finish")
        try:
            told = orjson.loads(payload)
            if name in (IDS_EVENT, PROMPT_EVENT, FINISH_EVENT):
                return self._beside(name, told)
            if name == b"error" or told.get("error") or told.get("type") in ("error", "response.failed"):
                self.lost_error = payload
                return self.lose("error-chunk")
            return self._passed_on(name, told)
        except ValueError as differs:
            return self.lose("malformed-chunk" if isinstance(differs, orjson.JSONDecodeError) else "diverged")
        except (TypeError, AttributeError, LookupError):
            return self.lose("malformed-chunk")  # fields that are missing, or of other types than an engine's

    def _beside(self, name: bytes, told: Any) -> bytes:
        """What the plug-in says. Raises ValueError where it differs from what was told before."""
        if name == FINISH_EVENT:
            self._finish = told
            return b"" if told in COMPLETE_REASONS else self.lose(str(told))
        if name == PROMPT_EVENT:
            self._prompts += 1
            self._is_single = self._prompts == 1
            if self._is_single and self._prompt not in (None, told):
                raise ValueError("another prompt")
            self._prompt = self._prompt or told
            return b""
        known = self._ids[self._repeated : self._repeated + len(told)]
        if known != told[: len(known)]:
            raise ValueError("the continuation's ids differ from what was told")
        self._ids += told[len(known) :]
        self._was_told = self._was_told or bool(self._ids)
        self._repeated += len(told)
        return b""

    def _passed_on(self, name: bytes, told: dict[str, Any]) -> bytes:
        self.state = StreamState.STREAMING
        self._is_past_opening = self._is_past_opening or told.get("type") not in _OPENINGS
        if name == b"message_delta":
            self._is_stopped = told["delta"].get("stop_reason") is not None
        is_last = name in TERMINAL_EVENTS
        if is_last and not self._may_end:
            return self.lose("end-without-finish")
        new = self._passages.unseen(told)
        if is_last and not self._passages.is_level:
            raise ValueError("the continuation ends before what was delivered")
        if new is None:
            return b""
        out = self._written_down(name, new)
        if is_last:
            self.state = StreamState.COMPLETE
        return out

    @property
    def _may_end(self) -> bool:
        """Whether the generation ended by itself: without the plug-in only a message's stop_reason shows it."""
        if self.generation.kind is ApiRoute.MESSAGES and not self._is_stopped:
            return False
        return self._finish is not None or not self._was_told

    def _written_down(self, name: bytes, event: dict[str, Any]) -> bytes:
        """The client's event; its line has the ids that were told since the last."""
        extra: dict[str, Any] = {"name": name.decode(), "chunk": event}
        if self._prompt is not None and not self._written:
            extra["prompt"] = self._prompt
        if not self._is_single:
            extra["several"] = True
        at, self._written = self._written, len(self._ids)
        self.log += write_line(0, at, self._ids[at:], "", NO_MARK, extra)
        return self._numbered(name, event)

    def _numbered(self, name: bytes, event: dict[str, Any]) -> bytes:
        self._was_heard = self._was_heard or event.get("type") not in _OPENINGS
        if event.get("logprobs") or not self._wants_logprobs:
            self._settled = len(self._ids)
        return self.events.numbered(orjson.dumps(event), name)

    # from the journal

    def read_line(self, line: Record | TokenRecord) -> bytes:
        """Account for a line of this stream's journal; its event, made again. Raises ValueError."""
        if isinstance(line, TokenRecord) or not line.extra or not isinstance(line.extra.get("chunk"), dict):
            raise ValueError("a line of another kind of stream")
        self._prompt = line.extra.get("prompt", self._prompt)
        self._is_single = not line.extra.get("several")
        self._ids[line.at :] = line.ids
        self._written = len(self._ids)
        self._was_told = self._was_told or bool(self._ids)
        event, name = line.extra["chunk"], str(line.extra.get("name", "")).encode()
        if self._passages.unseen(event) is None:
            raise ValueError("an event that was told before")
        if name in TERMINAL_EVENTS:
            self.state = StreamState.FINISHED
        return self._numbered(name, event)

    def restored(self, written: bytes) -> None:
        """All lines were read: what comes next is the rest of the answer, from another engine."""
        self.log += written
        if self.seq and self.state is not StreamState.FINISHED:
            self.state, self.lost_why = StreamState.LOST, "entry-lost"
