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

After a loss several choices continue one after another, since each has its own prompt and limits by then. An answer
without a limit is reprompted in segments (`requests.segment_tokens`). Where the prompts' texts must be requested first
(`core/openai/prompt_echo`), that is the first engine's first request. The states are in `core/streams/state`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import orjson

from node_agent.contract.errors import ContinuationImpossible
from node_agent.core.continuation import method, requests
from node_agent.core.continuation.method import ContinuationMethod, MethodChoice
from node_agent.core.failure.loss import Loss, LossReason, loss_from_code
from node_agent.core.journal.epochs import EpochRange
from node_agent.core.journal.records import Record, TokenRecord
from node_agent.core.openai import chunks, prompt_echo
from node_agent.core.openai.chunks import COMPLETE_REASONS
from node_agent.core.openai.generation_request import GenerationRequest
from node_agent.core.streams import chunk_template
from node_agent.core.streams.chunk_template import Matcher, wrap
from node_agent.core.streams.client_chunks import EnginePart, pass_through, splice
from node_agent.core.streams.delivered_state import DeliveredState
from node_agent.core.streams.state import StreamEvent, StreamState
from node_agent.core.streams.stream_machine import EngineRequest, StreamMachine

_MAX_TEMPLATES = 8
"""Templates derived per engine, so that chunks which differ each time do not cost a template each."""


class ChunkStream(StreamMachine):
    """The state machine of a stream of chunks."""

    def __init__(self, generation: GenerationRequest, stream_id: str, ranges: Sequence[EpochRange] = ()) -> None:
        self._delivered = DeliveredState(generation, stream_id, ranges)
        super().__init__(self._delivered.writer, self._delivered.journal)
        self.histories = self._delivered.histories  # one for each choice
        self._part = EnginePart()
        self._matcher: Matcher | None = None
        self._active_matcher: Matcher | None = None  # the template, while the next event may be one that it matches
        self._derived_templates = 0

    @property
    def tokens(self) -> int:
        """Ids generated so far, as the engines reported them."""
        return self._delivered.tokens

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the prompts as an engine returned them; 0 where it did not."""
        return self._delivered.prompt_tokens

    # the next engine

    def method_for(self, supported_methods: Collection[str]) -> MethodChoice | None:
        """Choose how an engine continues, as `StreamMachine.method_for`. Raises ContinuationImpossible."""
        delivered = self._delivered
        if not delivered.has_output or self.generation.single_chunk:
            return None  # the same request again is exact, whatever its state is
        if not delivered.has_token_ids:
            raise ContinuationImpossible("the engine reported no token ids")
        only_text = not any(map(delivered.has_parser_state, range(len(self.histories))))
        return method.choose_method(self.generation, supported_methods, only_text=only_text, redraws=self.would_redraw)

    @property
    def would_redraw(self) -> bool:
        """True where a reprompt would sample again text that the client has: vLLM joins tokens when it is busy."""
        return method.is_sampled(self.generation.body) and any(
            self.histories[index].has_text_after_resume_point(self.generation.max_tokens)
            for index in self._delivered.unfinished_choices()
        )

    def request(self, supported_methods: Collection[str] = ()) -> EngineRequest:
        """Build the request for the next engine, as `StreamMachine.request`."""
        self._begin_request()
        self._delivered.apply_token_records()
        self._matcher, self._active_matcher, self._derived_templates = None, None, 0
        self._part = EnginePart()
        if prompt_echo.needs_prompt_texts(self.generation):
            self._part.prompt_texts = prompt_echo.PromptTextCollector(self.generation.prompt_count)
            return EngineRequest(self.generation.route.value, prompt_echo.echo_body(self.generation))
        self.engine_attempts += 1
        chosen = self.method_choice = self.method_for(supported_methods)
        return self._whole_request() if chosen is None else self._request_for_rest(chosen.method)

    def _whole_request(self) -> EngineRequest:
        for index in self._delivered.unfinished_choices():
            self.histories[index].clear_ids()
        return EngineRequest(self.generation.route.value, self.generation.engine_body())

    def _request_for_rest(self, continuation: ContinuationMethod) -> EngineRequest:
        """Return the request for the rest of the first unfinished choice; set its history to where that starts."""
        choice, part = self._delivered.unfinished_choices()[0], self._part
        part.method, part.choice = continuation, choice
        is_reprompt = continuation is ContinuationMethod.REPROMPT
        body = self._reprompt_body(choice) if is_reprompt else self._resume_body(choice, continuation)
        part.base_offset = self._delivered.next_text_offset(choice)
        return EngineRequest(requests.REPROMPT_PATH if is_reprompt else self.generation.route.value, body)

    def _reprompt_body(self, choice: int) -> bytes:
        history, has_started = self.histories[choice], choice in self._delivered.started_choices
        body = requests.reprompt_body(self.generation, choice, history, has_started=has_started)
        if self.generation.max_tokens is None:
            self._part.segment = range(len(history.ids), len(history.ids) + requests.segment_tokens(history))
        return body

    def _resume_body(self, choice: int, continuation: ContinuationMethod) -> bytes:
        delivered = self._delivered
        delivered.deltas[choice].restart()
        has_parser = delivered.has_parser_state(choice) or choice in delivered.buffering_parsers
        return requests.resume_body(
            self.generation,
            choice,
            self.histories[choice],
            continuation,
            per_token=has_parser or bool(self.generation.per_token_args()),
            has_started=choice in delivered.started_choices,
        )

    # the current engine

    def feed(self, data: bytes) -> bytes:
        """Process `data` of the engine; return the client's bytes for it, often b"". Read `state` afterwards."""
        if self._active_matcher is not None and not self._parser.buffered:
            matched = self._active_matcher(data)
            if matched is not None:
                return self._delivered.emit_templated(*matched)
        return super().feed(data)

    def _on_event(self, name: bytes, payload: bytes) -> bytes:
        if self._active_matcher is not None and (matched := self._active_matcher(wrap(payload))) is not None:
            return self._delivered.emit_templated(*matched)
        return super()._on_event(name, payload)

    def on_engine_end(self, reason: Loss) -> bytes:
        """End the current engine's stream, as `StreamMachine.on_engine_end`."""
        self._delivered.apply_token_records()
        self._active_matcher = None
        return super().on_engine_end(reason)

    def _end_of_stream(self) -> bytes:
        return self._delivered.end_of_stream()

    def _on_answer(self, name: bytes, payload: bytes) -> bytes:
        self._delivered.apply_token_records()
        chunk = orjson.loads(payload)
        choices = chunk.get("choices")
        if choices is None:
            return self._on_error(payload) if "error" in chunk else self.on_engine_end(LossReason.MALFORMED_CHUNK)
        part = self._part
        if not choices:
            return self._delivered.on_usage(chunk, is_part=part.choice is not None)
        choice = choices[0]
        index = choice.get("index", 0) if part.choice is None else part.choice
        if len(choices) > 1 or not 0 <= index < len(self.histories):
            return self.on_engine_end(LossReason.MALFORMED_CHUNK)
        reason = choice.get("finish_reason")
        if reason is not None and reason not in COMPLETE_REASONS:
            return self.on_engine_end(loss_from_code(str(reason)))
        if part.prompt_texts is not None:
            return self._on_prompt_text(part.prompt_texts, choice)
        return self._on_choice(payload, index, chunk, choice)

    def _on_prompt_text(self, texts: prompt_echo.PromptTextCollector, choice: Mapping[str, Any]) -> bytes:
        try:
            known = texts.add(choice)
        except ValueError:
            return self.on_engine_end(LossReason.MALFORMED_CHUNK)
        if known is not None:
            self._delivered.set_echoes(known)
            self._advance(StreamEvent.PROMPT_TEXTS_COMPLETE)
        return b""

    def _on_choice(self, payload: bytes, index: int, chunk: dict[str, Any], choice: dict[str, Any]) -> bytes:
        part, reason, ids = self._part, choice.get("finish_reason"), choice.get("token_ids") or []
        if part.choice is not None and self._state is StreamState.FINISHED:
            return b""  # no output follows the finish_reason
        if part.ends_segment(reason, len(self.histories[index].ids) + len(ids)):
            return self._end_segment(index, part)
        text = chunks.text_of(part.route(self.generation.route), choice)
        self._delivered.record_prompt_ids(index, chunk, choice, is_repeated=part.repeats_request)
        if part.method is None:
            is_first = self.engine_attempts <= 1
            out = pass_through(self._delivered, index, chunk, choice, text, is_first_engine=is_first)
        else:
            out = splice(self._delivered, part, index, choice, text)
        if out is not None:
            self._on_output()
        if reason is None:
            self._derive_template(payload, index, ids, text, out)
        else:
            self._finish_choice(index, reason)
        return out or b""

    def _end_segment(self, index: int, part: EnginePart) -> bytes:
        """End a segment without its last chunk, which differs from what it would be in the middle of an answer.

        There a partial character becomes U+FFFD, and text that may begin a stop string is sent. The next segment
        starts at the last resume point. Where this one has set none, neither would the next: the engine counts as lost.

        Returns:
            The client's events for it: b"".
        """
        if part.segment is None or self.histories[index].last_resume_point(None).ids <= part.segment.start:
            return self.on_engine_end(LossReason.PIECE_WITHOUT_MARK)
        self._active_matcher = None
        self._advance(StreamEvent.PART_ENDED)
        return b""

    def _finish_choice(self, index: int, reason: str) -> None:
        self._active_matcher = None
        if self._state is not StreamState.STREAMING:
            return
        self.histories[index].finish_reason = reason
        if not self._delivered.unfinished_choices():
            self._advance(StreamEvent.LAST_FINISH_REASON)
        elif self._part.choice is not None:
            self._advance(StreamEvent.PART_ENDED)

    # templates

    def _derive_template(self, payload: bytes, index: int, ids: Sequence[int], text: str, out: bytes | None) -> None:
        """Derive a template from a parsed chunk, and decide whether the next chunk may be compared with it."""
        history = self.histories[index]
        is_caught_up = history.is_caught_up
        if out and text and len(ids) == 1 and is_caught_up and self._is_example():
            self._derived_templates += 1
            client_chunk = out.partition(b"data: ")[2].removesuffix(b"\n\n")
            if (template := chunk_template.derive(payload, text, ids[0], client_chunk)) is not None:
                self._matcher, self._delivered.token_record_choice = template.matcher(), index
        is_settled = is_caught_up and history.is_recorded and self._state is StreamState.STREAMING
        self._active_matcher = self._matcher if is_settled else None

    def _is_example(self) -> bool:
        """Return whether the next chunk may differ from the last one in nothing but its text and id."""
        is_single_choice = self._part.choice is not None or len(self.histories) == 1
        varies_otherwise = self.generation.exposes_token_ids or self.generation.wants_running_usage
        is_plain = self._delivered.last_had_no_extra and is_single_choice and not varies_otherwise
        return is_plain and self._derived_templates < _MAX_TEMPLATES

    # from the journal

    def apply_record(self, record: Record | TokenRecord) -> bytes:
        """Apply a record of this stream's journal; return its event, built again. Raises ValueError."""
        if isinstance(record, Record):
            self.engine_attempts = max(self.engine_attempts, 1)
        return self._delivered.apply_record(record)

    @property
    def _has_whole_answer(self) -> bool:
        return not self._delivered.unfinished_choices()

    def finish_restore(self, journal: bytes) -> None:
        """Finish restoring from `journal`, as `StreamMachine.finish_restore`."""
        super().finish_restore(journal)
        self._delivered.finish_restore()
