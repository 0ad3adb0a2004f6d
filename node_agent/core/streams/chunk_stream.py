r"""Assemble one client's stream of chunks from the streams of one or more engines.

Rules:

* the bytes sent to the client are always a prefix of one unbroken answer: nothing lost, nothing twice, no seam;
* the answer is complete only after a finish_reason of every choice; `[DONE]`, an error chunk, `abort`, a partial chunk
  or the end of the bytes without one mean that the engine was lost, and give the reason;
* after the last finish_reason nothing can be lost any more: this class builds what is missing;
* every later engine continues under the id, model and time of the first, so the client sees one answer;
* every event has an id, `<stream>/<seq>` and more after a takeover (`core/journal/epochs`); clients that can use ids
  receive them;
* every event adds one record to the journal (`core/journal/records`), from which `core/streams/factory` restores the
  same stream on another node;
* an event that differs from the previous one only in its text and id is compared, not parsed
  (`core/streams/chunk_template`): only its token record is stored, until a history is needed.

The caller connects to engines and moves bytes: it calls `request()` before each engine, passes received bytes to
`feed()`, and reads `state` after it.

    WAITING --first chunk--> STREAMING --last finish_reason--> FINISHED --[DONE], end or loss--> COMPLETE
       ^                         |  \--finish_reason of one of several choices or of a segment--> AWAITING_NEXT_REQUEST
       +------- request() -------+--- anything else ---> LOST

After a loss several choices continue one after another, since each has its own prompt and limits by then. An answer
without a limit is reprompted in segments (`requests.segment_tokens`). Where the prompts' texts must be requested first
(`core/openai/prompt_echo`), that is the first engine's first request, and leads from WAITING to AWAITING_NEXT_REQUEST.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import orjson

from node_agent.contract.errors import ContinuationImpossible, InvalidTransition
from node_agent.core.continuation import method, requests
from node_agent.core.continuation.method import ContinuationMethod, MethodChoice
from node_agent.core.failure.loss import Loss, LossReason, loss_from_code
from node_agent.core.failure.report import parse_loss
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
"""Templates derived per engine, so that chunks which differ each time do not cost a template each."""


_ENGINE_DONE = (StreamState.COMPLETE, StreamState.LOST, StreamState.AWAITING_NEXT_REQUEST)
_CAN_REQUEST = (StreamState.WAITING, StreamState.LOST, StreamState.AWAITING_NEXT_REQUEST)


class ChunkStream(DeliveredState, Continuable):
    """The state machine of a stream of chunks."""

    def __init__(self, generation: GenerationRequest, stream_id: str, ranges: Sequence[EpochRange] = ()) -> None:
        super().__init__(generation, stream_id, ranges)
        self.state = StreamState.WAITING
        self.loss_reason: Loss = LossReason.OTHER  # of the last engine; to be read in LOST
        self.engine_error = b""  # the error event that the last engine ended with, b"" for none
        self.method_choice: MethodChoice | None = None  # None: the current engine answers the whole request
        self._method: ContinuationMethod | None = None  # None: the current engine answers the whole request
        self._continued_choice: int | None = None  # None: the current engine answers for all choices
        self._parser = sse.SseParser()
        self._matcher: Matcher | None = None
        self._active_matcher: Matcher | None = None  # the template, while the next event may be one that it matches
        self._derived_templates = 0
        self._base_offset = 0
        # Set while the current engine is requested only to echo the prompts.
        self._prompt_texts: prompt_echo.PromptTextCollector | None = None
        self._segment: range | None = None  # positions of its ids; `length` at its end does not end the answer

    def method_for(self, supported_methods: Collection[str]) -> MethodChoice | None:
        if not self._has_output or self.generation.single_chunk:
            return None  # the same request again is exact, whatever its state is
        if not self._has_token_ids:
            raise ContinuationImpossible("the engine reported no token ids")
        only_text = not any(map(self._has_parser_state, range(len(self.histories))))
        return method.choose_method(self.generation, supported_methods, only_text=only_text)

    def request(self, supported_methods: Collection[str] = ()) -> EngineRequest:
        """Build the request for the next engine, whose node advertises `supported_methods`.

        Raises ContinuationImpossible where that engine cannot continue.
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
        chosen = self.method_choice = self.method_for(supported_methods)
        self._method = chosen.method if chosen is not None else None
        if chosen is None:
            for index in self._unfinished_choices():
                self.histories[index].clear_ids()
            return EngineRequest(self.generation.route.value, self.generation.engine_body())
        self._continued_choice = choice = self._unfinished_choices()[0]
        path, body = self._continuation_request(choice, chosen.method)
        self._base_offset = self._next_text_offset(choice)
        return EngineRequest(path, body)

    def _continuation_request(self, choice: int, continuation: ContinuationMethod) -> tuple[str, bytes]:
        """Return path and body of the request for the rest of a choice; set its history to where that starts."""
        generation, history, has_started = self.generation, self.histories[choice], choice in self._started_choices
        if continuation is ContinuationMethod.REPROMPT:
            body = requests.reprompt_body(generation, choice, history, has_started=has_started)
            if generation.max_tokens is None:
                self._segment = range(len(history.ids), len(history.ids) + requests.segment_tokens(history))
            return requests.REPROMPT_PATH, body
        self._deltas[choice].restart()
        per_token = (
            self._has_parser_state(choice) or choice in self._buffering_parsers or bool(generation.per_token_args())
        )
        return generation.route.value, requests.resume_body(
            generation, choice, history, continuation, per_token=per_token, has_started=has_started
        )

    def feed(self, data: bytes) -> bytes:
        """Process `data` of the engine; return the client's bytes for it, often b"". Read `state` afterwards."""
        if self._active_matcher is not None and not self._parser.buffered:
            matched = self._active_matcher(data)
            if matched is not None:
                return self._emit_templated(*matched)
        return self._feed_parsed(data) if self.state not in _ENGINE_DONE else b""

    def _feed_parsed(self, data: bytes) -> bytes:
        try:
            events = self._parser.feed(data)
        except sse.EventTooLarge:
            return self.on_engine_end(LossReason.EVENT_TOO_LARGE)
        out = []
        for name, payload in events:
            if self._active_matcher is not None and (matched := self._active_matcher(wrap(payload))) is not None:
                out.append(self._emit_templated(*matched))
            elif name == LOST_EVENT:
                out.append(self.on_engine_end(parse_loss(payload.decode("ascii", "replace"))))
            elif payload == sse.DONE:
                out.append(self.on_engine_end(LossReason.DONE_WITHOUT_FINISH))
            else:
                out.append(self._on_chunk(payload))
            if self.state in _ENGINE_DONE:
                break
        return b"".join(out)

    def on_engine_end(self, reason: Loss) -> bytes:
        """End the current engine's stream: a loss, or, after the last finish_reason, the end of the answer."""
        if self.state in _ENGINE_DONE:
            return b""  # only the first reason counts
        self._apply_token_records()
        self._active_matcher = None
        if self.state is StreamState.FINISHED:
            self.state = StreamState.COMPLETE
            return self._end_of_stream()
        self.state = StreamState.LOST
        self.loss_reason = reason
        return b""

    # an engine's chunk

    def _on_chunk(self, payload: bytes) -> bytes:
        self._apply_token_records()
        try:
            chunk = orjson.loads(payload)
            choices = chunk.get("choices")
        except (orjson.JSONDecodeError, AttributeError):
            return self.on_engine_end(LossReason.MALFORMED_CHUNK)
        if choices is None and "error" in chunk:
            self.engine_error = payload
            return self.on_engine_end(LossReason.ERROR_CHUNK)
        if choices is None:
            return self.on_engine_end(LossReason.MALFORMED_CHUNK)
        if not choices:
            return self._on_usage(chunk)
        choice = choices[0]
        index = choice.get("index", 0) if self._continued_choice is None else self._continued_choice
        if len(choices) > 1 or not 0 <= index < len(self.histories):
            return self.on_engine_end(LossReason.MALFORMED_CHUNK)
        reason = choice.get("finish_reason")
        if reason is not None and reason not in COMPLETE_REASONS:
            return self.on_engine_end(loss_from_code(str(reason)))
        if self._prompt_texts is not None:
            return self._on_prompt_text(self._prompt_texts, choice)
        try:
            ids = choice.get("token_ids") or []
            if self._ends_segment(index, reason, len(ids)):
                return self._end_segment(index)
            text = chunks.text_of(self._engine_route, choice)
            if not self._record_prompt_ids(index, chunk, choice):
                return self.on_engine_end(LossReason.DIVERGED)
            out = self._pass_through(index, chunk, choice) if self._method is None else self._splice(index, choice)
        except (TypeError, OverflowError, AttributeError, LookupError):
            return self.on_engine_end(LossReason.MALFORMED_CHUNK)  # fields of other types than an engine's
        if reason is None:
            self._derive_template(payload, index, ids, text, out)
        else:
            self._finish_choice(index, reason)
        return out

    def _ends_segment(self, index: int, reason: str | None, ids: int) -> bool:
        """Return whether these ids are the end of a segment, and not of the answer."""
        segment = self._segment
        return segment is not None and reason == "length" and len(self.histories[index].ids) + ids == segment.stop

    def _end_segment(self, index: int) -> bytes:
        """End a segment without its last chunk, which differs from what it would be in the middle of an answer.

        There a partial character becomes U+FFFD, and text that may begin a stop string is sent. The next segment
        starts at the last resume point. Where this one has set none, neither would the next: the engine counts as lost.
        """
        self._apply_token_records()
        if self._segment is None or self.histories[index].last_resume_point(None).ids <= self._segment.start:
            return self.on_engine_end(LossReason.PIECE_WITHOUT_MARK)
        self._active_matcher, self.state = None, StreamState.AWAITING_NEXT_REQUEST
        return b""

    def _on_prompt_text(self, texts: prompt_echo.PromptTextCollector, choice: Mapping[str, Any]) -> bytes:
        try:
            known = texts.add(choice)
        except ValueError:
            return self.on_engine_end(LossReason.MALFORMED_CHUNK)
        if known is not None:
            self._set_echoes(known)
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
        """Record the prompt's ids; return False where a repeated request has another prompt than before.

        A chat's prompt comes once for all choices, a completion's with the first chunk of each choice, or not at all:
        when the client reads slowly vLLM merges outputs, and the prompt's ids in the second are lost. So all choices of
        a prompt share the ids of the first.
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
        """Return the event for a chunk in the client's own form, without fields that it did not request."""
        route, history = self.generation.route, self.histories[index]
        ids, text = choice.get("token_ids") or (), chunks.text_of(route, choice)
        if history.finish_reason is not None:
            return self._check_finished_choice(history, choice, text)
        if prompt_echo.is_chat_echo(self.generation, choice):
            text = ""  # the prompt's, not the answer's
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
        has_more_than_text = self._record_delta(index, choice)
        history.append(ids, text)
        self._has_token_ids = self._has_token_ids or bool(ids)
        self.state = StreamState.STREAMING
        if (
            self._is_hidden_reasoning(index, choice)
            and chunks.hide_reasoning(choice)
            and not choice.get("finish_reason")
        ):
            return b""
        if not self.generation.wants_ids:
            chunks.strip_ids(chunk, echoes=route is ApiRoute.COMPLETION and bool(self.generation.body.get("echo")))
        if has_more_than_text or not ids:
            extra["chunk"] = chunk  # also a role alone, or an unexpected chunk: recorded as it is
        elif (scored := choice.get("logprobs")) is not None:
            extra["logprobs"] = scored
            self._text_offsets[index].add(scored)
        if choice.get("finish_reason") is not None:
            extra |= {"reason": choice["finish_reason"], "stop": choice.get("stop_reason")}
        return self._emit(orjson.dumps(chunk), index, text, extra)

    def _check_finished_choice(self, history: TokenHistory, choice: Mapping[str, Any], text: str) -> bytes:
        """Check a finished choice, which the engine repeats in a request sent again whole for the other choices."""
        if choice.get("finish_reason") is not None and text != history.text:
            return self.on_engine_end(LossReason.DIVERGED)
        return b""

    def _splice(self, index: int, choice: dict[str, Any]) -> bytes:
        """Return the event for a continuing engine's chunk, in the client's form, without what the client has."""
        self.state = StreamState.STREAMING
        engine_ids, route = choice.get("token_ids") or (), self._engine_route
        try:
            ids, text = self.histories[index].append(engine_ids, chunks.text_of(route, choice))
            delta = choice.get("delta")
            delta_part = {} if delta is None else self._deltas[index].new_part(delta)
            if self._is_hidden_reasoning(index, choice):
                chunks.hide_reasoning(choice)
                ids, delta_part = (), {key: delta_part[key] for key in delta_part if key not in chunks.REASONING}
            if choice.get("finish_reason") is not None:
                self._check_caught_up(index)
        except ValueError:
            return self.on_engine_end(LossReason.DIVERGED)
        exposes_ids = self.generation.exposes_token_ids
        if not text and not delta_part and not (ids and exposes_ids) and choice.get("finish_reason") is None:
            return b""
        extra: dict[str, Any] = {}
        if index not in self._started_choices:
            self._started_choices.add(index)
            extra["role"] = True
        if (scored := choice.get("logprobs")) is not None:
            extra["logprobs"] = self._logprobs_after_cut(scored, len(engine_ids) - len(ids))
            self._text_offsets[index].add(extra["logprobs"])
        if choice.get("finish_reason") is not None:
            extra |= {"reason": choice["finish_reason"], "stop": choice.get("stop_reason")}
        event = self.writer.build_chunk(self.histories[index], index, text, list(ids), extra, delta_part)
        if delta_part:
            extra["chunk"] = orjson.loads(event)
        return self._emit(event, index, text, extra)

    @property
    def _engine_route(self) -> ApiRoute:
        """The route that the current engine serves."""
        return ApiRoute.COMPLETION if self._method is ContinuationMethod.REPROMPT else self.generation.route

    def _logprobs_after_cut(self, scored: dict[str, Any], skip: int) -> dict[str, Any]:
        if self._method is ContinuationMethod.REPROMPT:
            return logprobs.from_completion(scored, skip, self._base_offset, self.generation)
        return logprobs.skip_first(scored, skip, self._base_offset)

    def _check_caught_up(self, index: int) -> None:
        """Raise ValueError where an answer ends before it has repeated all that was delivered."""
        if self._method is not ContinuationMethod.REPROMPT and not (
            self.histories[index].is_caught_up and self._deltas[index].is_caught_up
        ):
            raise ValueError("the continuation ends before what was delivered")

    # templates

    def _derive_template(self, payload: bytes, index: int, ids: list[int], text: str, out: bytes) -> None:
        """Derive a template from a parsed chunk, and decide whether the next chunk may be compared with it."""
        is_single_choice = self._continued_choice is not None or len(self.histories) == 1
        varies_otherwise = self.generation.exposes_token_ids or self.generation.wants_running_usage
        history = self.histories[index]
        is_example = (
            bool(out and text)
            and self._last_had_no_extra
            and len(ids) == 1
            and is_single_choice
            and not varies_otherwise
        )
        if is_example and history.is_caught_up and self._derived_templates < _MAX_TEMPLATES:
            self._derived_templates += 1
            client_chunk = out.partition(b"data: ")[2].removesuffix(b"\n\n")
            if (template := chunk_template.derive(payload, text, ids[0], client_chunk)) is not None:
                self._matcher, self._token_record_choice = template.matcher(), index
        is_settled = history.is_caught_up and history.is_recorded and self.state is StreamState.STREAMING
        self._active_matcher = self._matcher if is_settled else None

    # the end

    def _on_usage(self, chunk: dict[str, Any]) -> bytes:
        if self._continued_choice is not None and isinstance(usage := chunk.get("usage"), dict):
            self._engine_usage = usage  # covers only its part; `_end_of_stream` counts all
            return b""
        if self._continued_choice is not None or not self.generation.wants_usage or self._usage_sent:
            return b""
        return self._emit_usage({**chunk, **self.writer.envelope()})

    def finish_restore(self, journal: bytes) -> None:
        """Finish restoring from `journal`: FINISHED if all choices ended, else LOST to another engine."""
        self.journal += journal
        self._unapplied_from = len(self.journal)
        self._share_prompts()
        if not self._unfinished_choices():
            self.state = StreamState.FINISHED
        elif self.seq:
            self.state, self.loss_reason = StreamState.LOST, LossReason.ENTRY_LOST
