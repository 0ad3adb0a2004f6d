"""One client's stream, from the first engine to the last: bytes of engines in, bytes for the client out.

Rules kept here:

* what was handed out is always a prefix of one unbroken answer: nothing lost, nothing twice, no seam;
* the answer is complete only after a finish_reason; `[DONE]`, an error chunk, `abort`, half a chunk or the end of the
  bytes without one mean that the engine was lost, and why;
* once a finish_reason was handed out nothing can be lost any more: what is missing (usage, `[DONE]`) is made here;
* every engine after the first goes on under the id, name and time of the first, so the client sees one answer;
* every event carries `id: <stream>/<seq>`, and `seq` counts what the client got.

The shell opens engines and moves bytes; it asks `request()` before each engine, gives `feed()` what arrives, and
reads `state` after it.

    WAITING --first chunk--> STREAMING --finish_reason--> FINISHED --[DONE], end or loss--> COMPLETE
       ^                         |
       +------- request() -------+--- anything else ---> LOST
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import orjson

from node_agent.contract.errors import ContinuationImpossible, InvalidTransition
from node_agent.core import completions, continuation, sse
from node_agent.core.completions import COMPLETE_REASONS, Generation
from node_agent.core.journal import Journal

LOST_EVENT = b"synkti-lost"
"""With this event an engine node gives a stream back to its entry; its data says why: handoff, reset, silence, ..."""

HANDOFF = "handoff"


class StreamState(Enum):
    WAITING = "waiting"
    STREAMING = "streaming"
    FINISHED = "finished"
    COMPLETE = "complete"
    LOST = "lost"


_OVER = (StreamState.COMPLETE, StreamState.LOST)


@dataclass(frozen=True)
class EngineRequest:
    """What to ask the next engine."""

    path: str
    body: bytes


class StreamMachine:
    """See the module. `lost_why` says in a word what happened to the last engine."""

    def __init__(self, generation: Generation, stream_id: str) -> None:
        self.generation = generation
        self.journal = Journal(generation.held_back, generation.wants_ids)
        self.state = StreamState.WAITING
        self.lost_why = ""
        self.seq = 0
        self._id = stream_id.encode()
        self._parser = sse.SseParser()
        self._frame: dict[str, Any] | None = None  # id, object, created, model of the first engine's chunks
        self._attempts = 0
        self._whole = True  # the current engine was asked for the whole answer, in the client's own form
        self._generated = False  # an engine reported ids: from then on only the rest may be asked for
        self._unfinished = generation.choices
        self._more_than_text = False
        self._usage_sent = False

    @property
    def attempts(self) -> int:
        """Engines asked so far."""
        return self._attempts

    @property
    def tokens(self) -> int:
        """Ids generated so far, as the engines counted them."""
        return len(self.journal.ids)

    def request(self) -> EngineRequest:
        """What the next engine is to be asked. Raises ContinuationImpossible, before anything is asked."""
        if self.state not in (StreamState.WAITING, StreamState.LOST):
            raise InvalidTransition(f"a request in state {self.state.value}")
        self._attempts += 1
        self._parser = sse.SseParser()
        self.state = StreamState.WAITING
        if self._more_than_text:
            raise ContinuationImpossible("reasoning or tool calls")
        if self.journal.length and not self._generated:
            raise ContinuationImpossible("the engine reported no token ids")
        self._whole = not self._generated
        if self._whole:
            # Nothing was generated: the same request again is exact, whatever its state is made of.
            return EngineRequest(self.generation.kind.value, self.generation.engine_body())
        return EngineRequest(continuation.CONTINUATION_PATH, continuation.rewind(self.generation, self.journal))

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
                out.append(self.lose(payload.decode("ascii", "replace")))
            elif payload == sse.DONE:
                out.append(self.lose("done-without-finish"))
            else:
                out.append(self._chunk(payload))
            if self.state in _OVER:
                break
        return b"".join(out)

    def lose(self, why: str) -> bytes:
        """The engine is gone or said its last word: a loss, or, after a finish_reason, the end of the answer."""
        if self.state in _OVER:
            return b""  # the first word counts
        if self.state is StreamState.FINISHED:
            self.state = StreamState.COMPLETE
            return self._ending()
        self.state = StreamState.LOST
        self.lost_why = why
        return b""

    def _chunk(self, payload: bytes) -> bytes:
        try:
            chunk = orjson.loads(payload)
            choices = chunk.get("choices")
        except (orjson.JSONDecodeError, AttributeError):
            return self.lose("malformed-chunk")
        if choices is None:
            return self.lose("error-chunk" if "error" in chunk else "malformed-chunk")
        if not choices:
            return self._usage_chunk(chunk)
        choice = choices[0]
        reason = choice.get("finish_reason")
        if reason is not None and reason not in COMPLETE_REASONS:
            return self.lose(str(reason))
        self._note_prompt(chunk, choice)
        out = self._passed_on(chunk, choice) if self._whole else self._spliced(choice)
        if reason is not None and self.state is StreamState.STREAMING:
            self._unfinished -= 1
            if not self._unfinished:
                self.journal.finish_reason = reason
                self.state = StreamState.FINISHED
        return out

    def _passed_on(self, chunk: dict[str, Any], choice: Mapping[str, Any]) -> bytes:
        """A chunk in the client's own form: all of it, but for what was not asked for."""
        ids, text = choice.get("token_ids") or (), completions.text_of(self.generation.kind, choice)
        if self._frame is None:
            self._frame = {key: chunk.get(key) for key in ("id", "object", "created", "model")}
        elif self._attempts > 1:
            chunk.update(self._frame)
            if not ids and not text and choice.get("finish_reason") is None:
                return b""  # the first engine's role chunk was delivered
        self._more_than_text = self._more_than_text or completions.has_more_than_text(choice)
        self.journal.append(ids, text)
        self._generated = self._generated or bool(ids)
        self.state = StreamState.STREAMING
        if not self.generation.wants_ids:
            completions.strip_ids(chunk)
        return self._event(chunk)

    def _spliced(self, choice: Mapping[str, Any]) -> bytes:
        """A plain completion's chunk, in the client's form, without what the client already has."""
        self.state = StreamState.STREAMING
        try:
            ids, text = self.journal.append(choice.get("token_ids") or (), choice.get("text") or "")
        except ValueError:
            return self.lose("diverged")
        wants_ids = self.generation.wants_ids
        if not text and not (ids and wants_ids) and choice.get("finish_reason") is None:
            return b""
        made = completions.make_choice(self.generation.kind, text, choice, list(ids) if wants_ids else None)
        chunk = {**self._framed(), "choices": [made]}
        if self.generation.wants_running_usage:
            chunk["usage"] = self._usage()
        return self._event(chunk)

    def _note_prompt(self, chunk: Mapping[str, Any], choice: Mapping[str, Any]) -> None:
        if self.journal.prompt_ids is None:
            ids = chunk.get("prompt_token_ids") or choice.get("prompt_token_ids")
            self.journal.prompt_ids = tuple(ids) if ids else None

    def _usage_chunk(self, chunk: dict[str, Any]) -> bytes:
        if not self._whole or not self.generation.wants_usage or self._usage_sent:
            return b""  # an engine that was asked for a part counts only its part; the ending counts all
        self._usage_sent = True
        return self._event({**chunk, **self._framed()})

    def _usage(self) -> dict[str, int]:
        return completions.usage(len(self.journal.prompt_ids or ()), len(self.journal.ids))

    def _ending(self) -> bytes:
        out = b""
        if self.generation.wants_usage and not self._usage_sent:
            out = self._event({**self._framed(), "choices": [], "usage": self._usage()})
        return out + sse.message(sse.DONE)

    def _framed(self) -> dict[str, Any]:
        if self._frame is None:
            raise InvalidTransition("a chunk without a first chunk")
        return self._frame

    def _event(self, chunk: Mapping[str, Any]) -> bytes:
        self.seq += 1
        return b"id: %b/%d\ndata: %b\n\n" % (self._id, self.seq, orjson.dumps(chunk))
