r"""One client's stream, from the first engine to the last: bytes of engines in, bytes for the client out.

Rules kept here:

* what was handed out is always a prefix of one unbroken answer: nothing lost, nothing twice, no seam;
* the answer is complete only after a finish_reason of every choice; `[DONE]`, an error chunk, `abort`, half a chunk or
  the end of the bytes without one mean that the engine was lost, and why;
* once the last finish_reason was handed out nothing can be lost any more: what is missing is made here;
* every engine after the first goes on under the id, name and time of the first, so the client sees one answer;
* every event has an id, `<stream>/<seq>` and more after a takeover (`core/journal/epochs`), which clients get that can
  use it;
* for every event there is one line of the journal (`core/journal/records`), from which `core/streams/factory` makes the
  same stream again on another node;
* an event that is like the one before but for its text and id is compared, not read (`core/streams/chunk_template`):
  its plain line is all that is kept of it, until somebody needs the journals.

The shell opens engines and moves bytes; it asks `request()` before each engine, gives `feed()` what arrives, and
reads `state` after it.

    WAITING --first chunk--> STREAMING --last finish_reason--> FINISHED --[DONE], end or loss--> COMPLETE
       ^                         |  \--finish_reason of one choice of several, or of a piece--> BETWEEN
       +------- request() -------+--- anything else ---> LOST

After a loss several choices are continued one after another, since each has its own prompt and limits by then; an
answer without a limit is rewound piece by piece (`continuation.piece`). Where the prompts' texts have to be asked for
first (`core/openai/prompt_echo`), that is the first engine's first request, and WAITING goes over into BETWEEN.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import orjson

from node_agent.contract.errors import ContinuationImpossible, InvalidTransition
from node_agent.core.continuation import method, requests
from node_agent.core.continuation.method import ContinuationMethod, MethodChoice
from node_agent.core.journal.epochs import EpochRange
from node_agent.core.journal.token_history import TokenHistory
from node_agent.core.openai import chunks, logprobs, prompt_echo, sse
from node_agent.core.openai.chunks import COMPLETE_REASONS
from node_agent.core.openai.generation_request import ApiRoute, GenerationRequest
from node_agent.core.streams import chunk_template
from node_agent.core.streams.chunk_template import Compare, as_event
from node_agent.core.streams.delivered_state import DeliveredState
from node_agent.core.streams.state import LOST_EVENT, Continuable, EngineRequest, StreamState

_MAX_LESSONS = 8
"""Templates learned of one engine: one whose chunks differ each time is read in full."""


_OVER = (StreamState.COMPLETE, StreamState.LOST, StreamState.BETWEEN)
_MAY_ASK = (StreamState.WAITING, StreamState.LOST, StreamState.BETWEEN)


class ChunkStream(DeliveredState, Continuable):
    """See the module.

    lost_why: in a word, what happened to the last engine; lost_error: the error event that it ended with, b"" where
    there was none; chosen: the way that the current engine goes on, None where it answers the whole request.
    """

    def __init__(self, generation: GenerationRequest, stream_id: str, runs: Sequence[EpochRange] = ()) -> None:
        super().__init__(generation, stream_id, runs)
        self.state = StreamState.WAITING
        self.lost_why = ""
        self.lost_error = b""
        self.chosen: MethodChoice | None = None
        self._way: ContinuationMethod | None = None  # of the current engine; None: it answers the whole request
        self._choice: int | None = None  # the one that the current engine continues; None: it answers the whole request
        self._parser = sse.SseParser()
        self._template: Compare | None = None
        self._compare: Compare | None = None  # the template, while the next event may be one that it matches
        self._lessons = 0
        self._base_offset = 0
        self._texts: prompt_echo.PromptTextCollector | None = (
            None  # of prompts, while the current engine is asked for nothing else
        )
        self._piece: range | None = None  # the ids of the piece that is asked for: `length` at its end is no end

    def way_at(self, able: Collection[str]) -> MethodChoice | None:
        if not self._was_heard or self.generation.in_one_piece:
            return None  # the same request again is exact, whatever its state is made of
        if not self._generated:
            raise ContinuationImpossible("the engine reported no token ids")
        only_text = not any(map(self._is_parsed, range(len(self.journals))))
        return method.choose(self.generation, able, only_text=only_text)

    def request(self, able: Collection[str] = ()) -> EngineRequest:
        """What the next engine is to be asked, whose node advertises `able`.

        Raises ContinuationImpossible, before anything is asked.
        """
        if self.state not in _MAY_ASK:
            raise InvalidTransition(f"a request in state {self.state.value}")
        self._catch_up()
        self._parser = sse.SseParser()
        self._template, self._compare, self._lessons = None, None, 0
        self._texts, self._piece = None, None
        self.lost_error = b""
        self.state = StreamState.WAITING
        if prompt_echo.is_unknown(self.generation):
            self._texts = prompt_echo.PromptTextCollector(self.generation.prompt_count)
            return EngineRequest(self.generation.kind.value, prompt_echo.echo_body(self.generation))
        self._attempts += 1
        chosen = self.chosen = self.way_at(able)
        self._way = chosen.way if chosen is not None else None
        if chosen is None:
            for at in self._unfinished():
                self.journals[at].forget()
            return EngineRequest(self.generation.kind.value, self.generation.engine_body())
        self._choice = choice = self._unfinished()[0]
        path, body = self._rest(choice, chosen.way)
        self._base_offset = self._offset(choice)
        return EngineRequest(path, body)

    def _rest(self, choice: int, way: ContinuationMethod) -> tuple[str, bytes]:
        """The path and the body of the request for what a choice lacks; its journal is where that begins."""
        generation, journal, begun = self.generation, self.journals[choice], choice in self._begun
        if way is ContinuationMethod.REWIND:
            body = requests.rewind(generation, choice, journal, begun=begun)
            if generation.max_tokens is None:
                self._piece = range(len(journal.ids), len(journal.ids) + requests.piece(journal))
            return requests.REWIND_PATH, body
        self._deltas[choice].replay()
        apart = self._is_parsed(choice) or choice in self._kept_back or bool(generation.apart())
        return generation.kind.value, requests.again(generation, choice, journal, way, apart=apart, begun=begun)

    def feed(self, data: bytes) -> bytes:
        """What to hand to the client for `data` of the engine; b"" often. Read `state` afterwards."""
        if self._compare is not None and not self._parser.held:
            plain = self._compare(data)
            if plain is not None:
                return self._plain(*plain)
        return self._read(data) if self.state not in _OVER else b""

    def _read(self, data: bytes) -> bytes:
        try:
            events = self._parser.feed(data)
        except sse.EventTooLarge:
            return self.lose("event-too-large")
        out = []
        for name, payload in events:
            if self._compare is not None and (plain := self._compare(as_event(payload))) is not None:
                out.append(self._plain(*plain))
            elif name == LOST_EVENT:
                out.append(self.lose(payload.decode("ascii", "replace")))
            elif payload == sse.DONE:
                out.append(self.lose("done-without-finish"))
            else:
                out.append(self._chunk(payload))
            if self.state in _OVER:
                break
        return b"".join(out)

    def lose(self, why: str) -> bytes:
        """The engine is gone or said its last word: a loss, or, after the last finish_reason, the answer's end."""
        if self.state in _OVER:
            return b""  # the first word counts
        self._catch_up()
        self._compare = None
        if self.state is StreamState.FINISHED:
            self.state = StreamState.COMPLETE
            return self._ending()
        self.state = StreamState.LOST
        self.lost_why = why
        return b""

    # an engine's chunk

    def _chunk(self, payload: bytes) -> bytes:
        self._catch_up()
        try:
            chunk = orjson.loads(payload)
            choices = chunk.get("choices")
        except (orjson.JSONDecodeError, AttributeError):
            return self.lose("malformed-chunk")
        if choices is None and "error" in chunk:
            self.lost_error = payload
            return self.lose("error-chunk")
        if choices is None:
            return self.lose("malformed-chunk")
        if not choices:
            return self._usage_chunk(chunk)
        choice = choices[0]
        index = choice.get("index", 0) if self._choice is None else self._choice
        if len(choices) > 1 or not 0 <= index < len(self.journals):
            return self.lose("malformed-chunk")
        reason = choice.get("finish_reason")
        if reason is not None and reason not in COMPLETE_REASONS:
            return self.lose(str(reason))
        if self._texts is not None:
            return self._text_of_prompt(self._texts, choice)
        try:
            ids = choice.get("token_ids") or []
            if self._ends_piece(index, reason, len(ids)):
                return self._next_piece(index)
            text = chunks.text_of(self._form, choice)
            if not self._note_prompt(index, chunk, choice):
                return self.lose("diverged")
            out = self._passed_on(index, chunk, choice) if self._way is None else self._spliced(index, choice)
        except (TypeError, OverflowError, AttributeError, LookupError):
            return self.lose("malformed-chunk")  # fields of other types than an engine's
        if reason is None:
            self._learn(payload, index, ids, text, out)
        else:
            self._finish(index, reason)
        return out

    def _ends_piece(self, index: int, reason: str | None, ids: int) -> bool:
        """Whether these last ids are where a piece was to end, and not the answer."""
        piece = self._piece
        return piece is not None and reason == "length" and len(self.journals[index].ids) + ids == piece.stop

    def _next_piece(self, index: int) -> bytes:
        """A piece ends without its last chunk, which says what it would not in the middle of an answer.

        There half a character becomes U+FFFD, and what may begin a stop string is told. The next piece begins at the
        last mark; where there is none that this one has made, neither would the next, and the engine counts as lost.
        """
        self._catch_up()
        if self._piece is None or self.journals[index].last_mark(None).ids <= self._piece.start:
            return self.lose("piece-without-mark")
        self._compare, self.state = None, StreamState.BETWEEN
        return b""

    def _text_of_prompt(self, texts: prompt_echo.PromptTextCollector, choice: Mapping[str, Any]) -> bytes:
        try:
            told = texts.take(choice)
        except ValueError:
            return self.lose("malformed-chunk")
        if told is not None:
            self._know_echoes(told)
            self.state = StreamState.BETWEEN
        return b""

    def _finish(self, index: int, reason: str) -> None:
        self._compare = None
        if self.state is not StreamState.STREAMING:
            return
        self.journals[index].finish_reason = reason
        if not self._unfinished():
            self.state = StreamState.FINISHED
        elif self._choice is not None:
            self.state = StreamState.BETWEEN

    def _note_prompt(self, index: int, chunk: Mapping[str, Any], choice: Mapping[str, Any]) -> bool:
        """A chat's prompt comes once for all choices, a completion's with the first chunk of each choice, or not.

        vLLM joins outputs that its client was too slow for, and what the second one says of its prompt is then gone; so
        all choices of a prompt take its ids from the first. False where a request that was asked again has another
        prompt than it had.
        """
        ids = chunk.get("prompt_token_ids") or choice.get("prompt_token_ids")
        known = self.journals[index].prompt_ids
        if not ids:
            return True
        if known is not None:
            return self._way in (None, ContinuationMethod.REWIND) or known == tuple(ids)
        self.journals[index].prompt_ids = tuple(ids)
        self._share_prompts()
        return True

    def _passed_on(self, index: int, chunk: dict[str, Any], choice: dict[str, Any]) -> bytes:
        """A chunk in the client's own form: all of it, but for what was not asked for."""
        kind, journal = self.generation.kind, self.journals[index]
        ids, text = choice.get("token_ids") or (), chunks.text_of(kind, choice)
        if journal.finish_reason is not None:
            return self._repeated(journal, choice, text)
        if prompt_echo.is_chat_echo(self.generation, choice):
            text = ""  # of the prompt, and not the answer's
            if index in self._echoed:
                return b""
            self._echoed.add(index)
        elif self._attempts > 1 and index in self._begun and not (ids or text or choice.get("finish_reason")):
            return b""  # the first engine's role chunk was delivered
        extra = self._framed(chunk)
        if index not in self._begun and self.generation.echoes_here:
            choice["text"] = self.generation.echo(index) + text
            extra["role"] = True
        self._begun.add(index)
        is_parsed = self._note_delta(index, choice)
        journal.append(ids, text)
        self._generated = self._generated or bool(ids)
        self.state = StreamState.STREAMING
        if self._hides(index, choice) and chunks.hide_reasoning(choice) and not choice.get("finish_reason"):
            return b""
        if not self.generation.wants_ids:
            chunks.strip_ids(chunk, echoes=kind is ApiRoute.COMPLETION and bool(self.generation.body.get("echo")))
        if is_parsed or not ids:
            extra["chunk"] = chunk  # a role alone, too, or what no engine of ours would say: kept as it is
        elif (told := choice.get("logprobs")) is not None:
            extra["logprobs"] = told
            self._offsets[index].note(told)
        if choice.get("finish_reason") is not None:
            extra |= {"reason": choice["finish_reason"], "stop": choice.get("stop_reason")}
        return self._event(orjson.dumps(chunk), index, text, extra)

    def _hides(self, index: int, choice: Mapping[str, Any]) -> bool:
        """Whether a chunk is of a reasoning that the client does not want; a rewind, without a delta, has none."""
        delta = choice.get("delta")
        if delta is None or not self.generation.hides_reasoning:
            return False
        return chunks.tells_reasoning(delta, speaks=self.journals[index].length > 0)

    def _framed(self, chunk: dict[str, Any]) -> dict[str, Any]:
        """Put a chunk under the first one's name; what the line of the first says of all."""
        if self.events.frame is None:
            said: dict[str, Any] = {"frame": self.events.begin(chunk)}
            return said | ({"echoes": self.generation.echoes} if self.generation.echoes_here else {})
        if self._attempts > 1:
            chunk.update(self.events.frame)
        return {}

    def _repeated(self, journal: TokenHistory, choice: Mapping[str, Any], text: str) -> bytes:
        """A choice that the client has, in a request that was asked again whole for the others."""
        if choice.get("finish_reason") is not None and text != journal.text:
            return self.lose("diverged")
        return b""

    def _spliced(self, index: int, choice: dict[str, Any]) -> bytes:
        """A chunk of an engine that goes on, in the client's form, without what the client already has."""
        self.state = StreamState.STREAMING
        engine_ids, form = choice.get("token_ids") or (), self._form
        try:
            ids, text = self.journals[index].append(engine_ids, chunks.text_of(form, choice))
            delta = choice.get("delta")
            more = {} if delta is None else self._deltas[index].unseen(delta)
            if self._hides(index, choice):
                chunks.hide_reasoning(choice)
                ids, more = (), {key: more[key] for key in more if key not in chunks.REASONING}
            if choice.get("finish_reason") is not None:
                self._check_level(index)
        except ValueError:
            return self.lose("diverged")
        told_ids = self.generation.told_ids
        if not text and not more and not (ids and told_ids) and choice.get("finish_reason") is None:
            return b""
        said: dict[str, Any] = {}
        if index not in self._begun:
            self._begun.add(index)
            said["role"] = True
        if (told := choice.get("logprobs")) is not None:
            said["logprobs"] = self._logprobs_after_cut(told, len(engine_ids) - len(ids))
            self._offsets[index].note(said["logprobs"])
        if choice.get("finish_reason") is not None:
            said |= {"reason": choice["finish_reason"], "stop": choice.get("stop_reason")}
        made = self.events.made(self.journals[index], index, text, list(ids), said, more)
        if more:
            said["chunk"] = orjson.loads(made)
        return self._event(made, index, text, said)

    @property
    def _form(self) -> ApiRoute:
        """The route that the current engine answers on."""
        return ApiRoute.COMPLETION if self._way is ContinuationMethod.REWIND else self.generation.kind

    def _logprobs_after_cut(self, told: dict[str, Any], skip: int) -> dict[str, Any]:
        if self._way is ContinuationMethod.REWIND:
            return logprobs.after_cut(told, skip, self._base_offset, self.generation)
        return logprobs.without_first(told, skip, self._base_offset)

    def _check_level(self, index: int) -> None:
        """An answer that ends before it has repeated all that was delivered is another one. Raises ValueError."""
        if self._way is not ContinuationMethod.REWIND and not (
            self.journals[index].is_level and self._deltas[index].is_level
        ):
            raise ValueError("the continuation ends before what was delivered")

    # events like the one before

    def _learn(self, payload: bytes, index: int, ids: list[int], text: str, out: bytes) -> None:
        """After a chunk that was read in full: whether the next may be compared, and with what."""
        is_alone = self._choice is not None or len(self.journals) == 1
        asks_more = self.generation.told_ids or self.generation.wants_running_usage
        journal = self.journals[index]
        is_example = bool(out and text) and self._said_no_more and len(ids) == 1 and is_alone and not asks_more
        if is_example and journal.is_level and self._lessons < _MAX_LESSONS:
            self._lessons += 1
            told = out.partition(b"data: ")[2].removesuffix(b"\n\n")
            if (learned := chunk_template.learn(payload, text, ids[0], told)) is not None:
                self._template, self._plain_choice = learned.compare(), index
        is_settled = journal.is_level and journal.is_written and self.state is StreamState.STREAMING
        self._compare = self._template if is_settled else None

    # the end

    def _usage_chunk(self, chunk: dict[str, Any]) -> bytes:
        if self._choice is not None and isinstance(told := chunk.get("usage"), dict):
            self._usage_told = told  # an engine that was asked for a part counts only its part; the ending counts all
            return b""
        if self._choice is not None or not self.generation.wants_usage or self._usage_sent:
            return b""
        return self._usage_event({**chunk, **self.events.framed()})

    def _ending(self) -> bytes:
        out = b""
        if self.generation.wants_usage and not self._usage_sent:
            out = self._usage_event({**self.events.framed(), "choices": [], "usage": self._usage()})
        return out + sse.message(sse.DONE)

    def restored(self, written: bytes) -> None:
        """All lines were read: what comes next is the rest of the answer, from another engine."""
        self.log += written
        self._plain_from = len(self.log)
        self._share_prompts()
        if not self._unfinished():
            self.state = StreamState.FINISHED
        elif self.seq:
            self.state, self.lost_why = StreamState.LOST, "entry-lost"
