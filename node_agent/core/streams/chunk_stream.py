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
from node_agent.core.streams.chunk_template import Matcher, wrap
from node_agent.core.streams.delivered_state import DeliveredState
from node_agent.core.streams.state import LOST_EVENT, Continuable, EngineRequest, StreamState

_MAX_TEMPLATES = 8
"""Templates learned of one engine: one whose chunks differ each time is read in full."""


_ENGINE_DONE = (StreamState.COMPLETE, StreamState.LOST, StreamState.AWAITING_NEXT_REQUEST)
_CAN_REQUEST = (StreamState.WAITING, StreamState.LOST, StreamState.AWAITING_NEXT_REQUEST)


class ChunkStream(DeliveredState, Continuable):
    """See the module.

    lost_why: in a word, what happened to the last engine; lost_error: the error event that it ended with, b"" where
    there was none; chosen: the way that the current engine goes on, None where it answers the whole request.
    """

    def __init__(self, generation: GenerationRequest, stream_id: str, runs: Sequence[EpochRange] = ()) -> None:
        super().__init__(generation, stream_id, runs)
        self.state = StreamState.WAITING
        self.loss_reason = ""
        self.engine_error = b""
        self.method_choice: MethodChoice | None = None
        self._method: ContinuationMethod | None = None  # of the current engine; None: it answers the whole request
        self._continued_choice: int | None = (
            None  # the one that the current engine continues; None: it answers the whole request
        )
        self._parser = sse.SseParser()
        self._matcher: Matcher | None = None
        self._active_matcher: Matcher | None = None  # the template, while the next event may be one that it matches
        self._derived_templates = 0
        self._base_offset = 0
        self._prompt_texts: prompt_echo.PromptTextCollector | None = (
            None  # of prompts, while the current engine is asked for nothing else
        )
        self._segment: range | None = None  # the ids of the piece that is asked for: `length` at its end is no end

    def method_for(self, able: Collection[str]) -> MethodChoice | None:
        if not self._has_output or self.generation.single_chunk:
            return None  # the same request again is exact, whatever its state is made of
        if not self._has_token_ids:
            raise ContinuationImpossible("the engine reported no token ids")
        only_text = not any(map(self._has_parser_state, range(len(self.histories))))
        return method.choose_method(self.generation, able, only_text=only_text)

    def request(self, able: Collection[str] = ()) -> EngineRequest:
        """What the next engine is to be asked, whose node advertises `able`.

        Raises ContinuationImpossible, before anything is asked.
        """
        if self.state not in _CAN_REQUEST:
            raise InvalidTransition(f"a request in state {self.state.value}")
        self._apply_token_records()
        self._parser = sse.SseParser()
        self._matcher, self._active_matcher, self._derived_templates = None, None, 0
        self._prompt_texts, self._segment = None, None
        self.engine_error = b""
        self.state = StreamState.WAITING
        if prompt_echo.needs_prompt_texts(self.generation):
            self._prompt_texts = prompt_echo.PromptTextCollector(self.generation.prompt_count)
            return EngineRequest(self.generation.route.value, prompt_echo.echo_body(self.generation))
        self._engine_attempts += 1
        chosen = self.method_choice = self.method_for(able)
        self._method = chosen.method if chosen is not None else None
        if chosen is None:
            for at in self._unfinished_choices():
                self.histories[at].clear_ids()
            return EngineRequest(self.generation.route.value, self.generation.engine_body())
        self._continued_choice = choice = self._unfinished_choices()[0]
        path, body = self._continuation_request(choice, chosen.method)
        self._base_offset = self._next_text_offset(choice)
        return EngineRequest(path, body)

    def _continuation_request(self, choice: int, way: ContinuationMethod) -> tuple[str, bytes]:
        """The path and the body of the request for what a choice lacks; its journal is where that begins."""
        generation, journal, begun = self.generation, self.histories[choice], choice in self._started_choices
        if way is ContinuationMethod.REPROMPT:
            body = requests.reprompt_body(generation, choice, journal, begun=begun)
            if generation.max_tokens is None:
                self._segment = range(len(journal.ids), len(journal.ids) + requests.segment_tokens(journal))
            return requests.REPROMPT_PATH, body
        self._deltas[choice].restart()
        apart = self._has_parser_state(choice) or choice in self._buffering_parsers or bool(generation.per_token_args())
        return generation.route.value, requests.resume_body(generation, choice, journal, way, apart=apart, begun=begun)

    def feed(self, data: bytes) -> bytes:
        """What to hand to the client for `data` of the engine; b"" often. Read `state` afterwards."""
        if self._active_matcher is not None and not self._parser.buffered:
            plain = self._active_matcher(data)
            if plain is not None:
                return self._emit_templated(*plain)
        return self._feed_parsed(data) if self.state not in _ENGINE_DONE else b""

    def _feed_parsed(self, data: bytes) -> bytes:
        try:
            events = self._parser.feed(data)
        except sse.EventTooLarge:
            return self.on_engine_end("event-too-large")
        out = []
        for name, payload in events:
            if self._active_matcher is not None and (plain := self._active_matcher(wrap(payload))) is not None:
                out.append(self._emit_templated(*plain))
            elif name == LOST_EVENT:
                out.append(self.on_engine_end(payload.decode("ascii", "replace")))
            elif payload == sse.DONE:
                out.append(self.on_engine_end("done-without-finish"))
            else:
                out.append(self._on_chunk(payload))
            if self.state in _ENGINE_DONE:
                break
        return b"".join(out)

    def on_engine_end(self, why: str) -> bytes:
        """The engine is gone or said its last word: a loss, or, after the last finish_reason, the answer's end."""
        if self.state in _ENGINE_DONE:
            return b""  # the first word counts
        self._apply_token_records()
        self._active_matcher = None
        if self.state is StreamState.FINISHED:
            self.state = StreamState.COMPLETE
            return self._end_of_stream()
        self.state = StreamState.LOST
        self.loss_reason = why
        return b""

    # an engine's chunk

    def _on_chunk(self, payload: bytes) -> bytes:
        self._apply_token_records()
        try:
            chunk = orjson.loads(payload)
            choices = chunk.get("choices")
        except (orjson.JSONDecodeError, AttributeError):
            return self.on_engine_end("malformed-chunk")
        if choices is None and "error" in chunk:
            self.engine_error = payload
            return self.on_engine_end("error-chunk")
        if choices is None:
            return self.on_engine_end("malformed-chunk")
        if not choices:
            return self._on_usage(chunk)
        choice = choices[0]
        index = choice.get("index", 0) if self._continued_choice is None else self._continued_choice
        if len(choices) > 1 or not 0 <= index < len(self.histories):
            return self.on_engine_end("malformed-chunk")
        reason = choice.get("finish_reason")
        if reason is not None and reason not in COMPLETE_REASONS:
            return self.on_engine_end(str(reason))
        if self._prompt_texts is not None:
            return self._on_prompt_text(self._prompt_texts, choice)
        try:
            ids = choice.get("token_ids") or []
            if self._ends_segment(index, reason, len(ids)):
                return self._end_segment(index)
            text = chunks.text_of(self._engine_route, choice)
            if not self._record_prompt_ids(index, chunk, choice):
                return self.on_engine_end("diverged")
            out = self._pass_through(index, chunk, choice) if self._method is None else self._splice(index, choice)
        except (TypeError, OverflowError, AttributeError, LookupError):
            return self.on_engine_end("malformed-chunk")  # fields of other types than an engine's
        if reason is None:
            self._derive_template(payload, index, ids, text, out)
        else:
            self._finish_choice(index, reason)
        return out

    def _ends_segment(self, index: int, reason: str | None, ids: int) -> bool:
        """Whether these last ids are where a piece was to end, and not the answer."""
        piece = self._segment
        return piece is not None and reason == "length" and len(self.histories[index].ids) + ids == piece.stop

    def _end_segment(self, index: int) -> bytes:
        """A piece ends without its last chunk, which says what it would not in the middle of an answer.

        There half a character becomes U+FFFD, and what may begin a stop string is told. The next piece begins at the
        last mark; where there is none that this one has made, neither would the next, and the engine counts as lost.
        """
        self._apply_token_records()
        if self._segment is None or self.histories[index].last_resume_point(None).ids <= self._segment.start:
            return self.on_engine_end("piece-without-mark")
        self._active_matcher, self.state = None, StreamState.AWAITING_NEXT_REQUEST
        return b""

    def _on_prompt_text(self, texts: prompt_echo.PromptTextCollector, choice: Mapping[str, Any]) -> bytes:
        try:
            told = texts.add(choice)
        except ValueError:
            return self.on_engine_end("malformed-chunk")
        if told is not None:
            self._set_echoes(told)
            self.state = StreamState.AWAITING_NEXT_REQUEST
        return b""

    def _finish_choice(self, index: int, reason: str) -> None:
        self._active_matcher = None
        if self.state is not StreamState.STREAMING:
            return
        self.histories[index].finish_reason = reason
        if not self._unfinished_choices():
            self.state = StreamState.FINISHED
        elif self._continued_choice is not None:
            self.state = StreamState.AWAITING_NEXT_REQUEST

    def _record_prompt_ids(self, index: int, chunk: Mapping[str, Any], choice: Mapping[str, Any]) -> bool:
        """A chat's prompt comes once for all choices, a completion's with the first chunk of each choice, or not.

        vLLM joins outputs that its client was too slow for, and what the second one says of its prompt is then gone; so
        all choices of a prompt take its ids from the first. False where a request that was asked again has another
        prompt than it had.
        """
        ids = chunk.get("prompt_token_ids") or choice.get("prompt_token_ids")
        known = self.histories[index].prompt_ids
        if not ids:
            return True
        if known is not None:
            return self._method in (None, ContinuationMethod.REPROMPT) or known == tuple(ids)
        self.histories[index].prompt_ids = tuple(ids)
        self._share_prompts()
        return True

    def _pass_through(self, index: int, chunk: dict[str, Any], choice: dict[str, Any]) -> bytes:
        """A chunk in the client's own form: all of it, but for what was not asked for."""
        kind, journal = self.generation.route, self.histories[index]
        ids, text = choice.get("token_ids") or (), chunks.text_of(kind, choice)
        if journal.finish_reason is not None:
            return self._check_finished_choice(journal, choice, text)
        if prompt_echo.is_chat_echo(self.generation, choice):
            text = ""  # of the prompt, and not the answer's
            if index in self._echoed_choices:
                return b""
            self._echoed_choices.add(index)
        elif (
            self._engine_attempts > 1
            and index in self._started_choices
            and not (ids or text or choice.get("finish_reason"))
        ):
            return b""  # the first engine's role chunk was delivered
        extra = self._apply_envelope(chunk)
        if index not in self._started_choices and self.generation.prepends_prompt:
            choice["text"] = self.generation.echo(index) + text
            extra["role"] = True
        self._started_choices.add(index)
        is_parsed = self._record_delta(index, choice)
        journal.append(ids, text)
        self._has_token_ids = self._has_token_ids or bool(ids)
        self.state = StreamState.STREAMING
        if (
            self._is_hidden_reasoning(index, choice)
            and chunks.hide_reasoning(choice)
            and not choice.get("finish_reason")
        ):
            return b""
        if not self.generation.wants_ids:
            chunks.strip_ids(chunk, echoes=kind is ApiRoute.COMPLETION and bool(self.generation.body.get("echo")))
        if is_parsed or not ids:
            extra["chunk"] = chunk  # a role alone, too, or what no engine of ours would say: kept as it is
        elif (told := choice.get("logprobs")) is not None:
            extra["logprobs"] = told
            self._text_offsets[index].add(told)
        if choice.get("finish_reason") is not None:
            extra |= {"reason": choice["finish_reason"], "stop": choice.get("stop_reason")}
        return self._emit(orjson.dumps(chunk), index, text, extra)

    def _is_hidden_reasoning(self, index: int, choice: Mapping[str, Any]) -> bool:
        """Whether a chunk is of a reasoning that the client does not want; a rewind, without a delta, has none."""
        delta = choice.get("delta")
        if delta is None or not self.generation.hides_reasoning:
            return False
        return chunks.carries_reasoning(delta, speaks=self.histories[index].text_length > 0)

    def _apply_envelope(self, chunk: dict[str, Any]) -> dict[str, Any]:
        """Put a chunk under the first one's name; what the line of the first says of all."""
        if self.writer.known_envelope is None:
            said: dict[str, Any] = {"frame": self.writer.set_envelope(chunk)}
            return said | ({"echoes": self.generation.echoes} if self.generation.prepends_prompt else {})
        if self._engine_attempts > 1:
            chunk.update(self.writer.known_envelope)
        return {}

    def _check_finished_choice(self, journal: TokenHistory, choice: Mapping[str, Any], text: str) -> bytes:
        """A choice that the client has, in a request that was asked again whole for the others."""
        if choice.get("finish_reason") is not None and text != journal.text:
            return self.on_engine_end("diverged")
        return b""

    def _splice(self, index: int, choice: dict[str, Any]) -> bytes:
        """A chunk of an engine that goes on, in the client's form, without what the client already has."""
        self.state = StreamState.STREAMING
        engine_ids, form = choice.get("token_ids") or (), self._engine_route
        try:
            ids, text = self.histories[index].append(engine_ids, chunks.text_of(form, choice))
            delta = choice.get("delta")
            more = {} if delta is None else self._deltas[index].new_part(delta)
            if self._is_hidden_reasoning(index, choice):
                chunks.hide_reasoning(choice)
                ids, more = (), {key: more[key] for key in more if key not in chunks.REASONING}
            if choice.get("finish_reason") is not None:
                self._check_caught_up(index)
        except ValueError:
            return self.on_engine_end("diverged")
        told_ids = self.generation.exposes_token_ids
        if not text and not more and not (ids and told_ids) and choice.get("finish_reason") is None:
            return b""
        said: dict[str, Any] = {}
        if index not in self._started_choices:
            self._started_choices.add(index)
            said["role"] = True
        if (told := choice.get("logprobs")) is not None:
            said["logprobs"] = self._logprobs_after_cut(told, len(engine_ids) - len(ids))
            self._text_offsets[index].add(said["logprobs"])
        if choice.get("finish_reason") is not None:
            said |= {"reason": choice["finish_reason"], "stop": choice.get("stop_reason")}
        made = self.writer.build_chunk(self.histories[index], index, text, list(ids), said, more)
        if more:
            said["chunk"] = orjson.loads(made)
        return self._emit(made, index, text, said)

    @property
    def _engine_route(self) -> ApiRoute:
        """The route that the current engine answers on."""
        return ApiRoute.COMPLETION if self._method is ContinuationMethod.REPROMPT else self.generation.route

    def _logprobs_after_cut(self, told: dict[str, Any], skip: int) -> dict[str, Any]:
        if self._method is ContinuationMethod.REPROMPT:
            return logprobs.from_completion(told, skip, self._base_offset, self.generation)
        return logprobs.skip_first(told, skip, self._base_offset)

    def _check_caught_up(self, index: int) -> None:
        """An answer that ends before it has repeated all that was delivered is another one. Raises ValueError."""
        if self._method is not ContinuationMethod.REPROMPT and not (
            self.histories[index].is_caught_up and self._deltas[index].is_caught_up
        ):
            raise ValueError("the continuation ends before what was delivered")

    # events like the one before

    def _derive_template(self, payload: bytes, index: int, ids: list[int], text: str, out: bytes) -> None:
        """After a chunk that was read in full: whether the next may be compared, and with what."""
        is_alone = self._continued_choice is not None or len(self.histories) == 1
        asks_more = self.generation.exposes_token_ids or self.generation.wants_running_usage
        journal = self.histories[index]
        is_example = bool(out and text) and self._last_had_no_extra and len(ids) == 1 and is_alone and not asks_more
        if is_example and journal.is_caught_up and self._derived_templates < _MAX_TEMPLATES:
            self._derived_templates += 1
            told = out.partition(b"data: ")[2].removesuffix(b"\n\n")
            if (learned := chunk_template.derive(payload, text, ids[0], told)) is not None:
                self._matcher, self._token_record_choice = learned.matcher(), index
        is_settled = journal.is_caught_up and journal.is_recorded and self.state is StreamState.STREAMING
        self._active_matcher = self._matcher if is_settled else None

    # the end

    def _on_usage(self, chunk: dict[str, Any]) -> bytes:
        if self._continued_choice is not None and isinstance(told := chunk.get("usage"), dict):
            self._engine_usage = told  # an engine that was asked for a part counts only its part; the ending counts all
            return b""
        if self._continued_choice is not None or not self.generation.wants_usage or self._usage_sent:
            return b""
        return self._emit_usage({**chunk, **self.writer.envelope()})

    def _end_of_stream(self) -> bytes:
        out = b""
        if self.generation.wants_usage and not self._usage_sent:
            out = self._emit_usage({**self.writer.envelope(), "choices": [], "usage": self._total_usage()})
        return out + sse.message(sse.DONE)

    def finish_restore(self, written: bytes) -> None:
        """All lines were read: what comes next is the rest of the answer, from another engine."""
        self.journal += written
        self._unapplied_from = len(self.journal)
        self._share_prompts()
        if not self._unfinished_choices():
            self.state = StreamState.FINISHED
        elif self.seq:
            self.state, self.loss_reason = StreamState.LOST, "entry-lost"
