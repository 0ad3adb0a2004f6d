"""Track what one client has received of a stream: a token history for each choice, numbered events, and the journal.

`core/streams/chunk_stream` has one, and handles the engines. Another node restores the same state from the records of
the journal (`apply_record`).

An event that has only an id and a text becomes a token record. `apply_token_records` parses these records only when a
history is needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import orjson

from node_agent.core.journal.epochs import EpochRange
from node_agent.core.journal.records import Record, TokenRecord, encode_record, parse_token_records
from node_agent.core.journal.token_history import TokenHistory
from node_agent.core.openai import chunks, logprobs, prompt_echo, sse
from node_agent.core.openai.generation_request import GenerationRequest
from node_agent.core.streams.delta_tracker import DeltaTracker
from node_agent.core.streams.sse_writer import SseWriter


class DeliveredState:
    """What the client has of one stream."""

    def __init__(self, generation: GenerationRequest, stream_id: str, ranges: Sequence[EpochRange] = ()) -> None:
        self.generation = generation
        self.writer = SseWriter(generation, stream_id, ranges)
        self.histories = [
            TokenHistory(generation.stop_holdback_chars, generation.exposes_token_ids)
            for _ in range(generation.choices)
        ]  # one for each choice
        self.journal = bytearray()  # the encoded records
        self.token_record_choice = 0
        self._unapplied_token_records = 0  # at the end of the journal, not yet in their history
        self._unapplied_from = 0  # where in the journal they start
        self.last_had_no_extra = False  # the last event had only an id and a text
        self.has_token_ids = False  # an engine reported ids: from then on only the rest may be requested
        self.started_choices: set[int] = set()  # choices whose role or echo the client has
        self.echoed_choices: set[int] = set()  # choices of a chat whose echo the client has
        self._prompt_recorded: set[int] = set()  # choices whose prompt ids are in a record
        self._text_offsets = [logprobs.TextOffsets() for _ in self.histories]
        self.deltas = [DeltaTracker() for _ in self.histories]
        self.buffering_parsers: set[int] = set()  # choices of which a parser consumed an id without any output
        self._usage_sent = False
        self._engine_usage: Mapping[str, Any] = {}  # of the last engine that continued a part

    @property
    def tokens(self) -> int:
        """Ids generated so far, as the engines reported them."""
        return sum(len(history.ids) for history in self.histories) + self._unapplied_token_records

    @property
    def has_output(self) -> bool:
        """True when the client has any part of the answer, the end of a choice included, or any id."""
        if self.has_token_ids and self.generation.exposes_token_ids:
            return True
        if any(history.text_length or history.finish_reason is not None for history in self.histories):
            return True
        return not all(deltas.is_empty for deltas in self.deltas)

    def unfinished_choices(self) -> list[int]:
        """Return the choices whose finish_reason the client lacks."""
        return [index for index, history in enumerate(self.histories) if history.finish_reason is None]

    # state of a choice beside its text

    def set_echoes(self, echoes: Sequence[str]) -> None:
        """Set the texts of the prompts, which are delivered before the answer."""
        self.generation = self.writer.generation = replace(self.generation, echoes=tuple(echoes))

    def next_text_offset(self, index: int) -> int:
        """Return the next id's offset in the text, as logprobs count it."""
        history = self.histories[index]
        scored = len(history.prompt_ids or ()) if self.generation.returns_prompt_logprobs else 0
        return self._text_offsets[index].at(scored + len(history.ids))

    def append(self, index: int, choice: Mapping[str, Any], ids: Sequence[int], text: str) -> bool:
        """Add an engine's chunk to choice `index`.

        Args:
            index: the number of the choice.
            choice: the chunk's.
            ids: its ids.
            text: its text.

        Returns:
            Whether it has more than ids and text.

        Raises ValueError, TypeError or OverflowError where it cannot follow what the choice has.
        """
        self.started_choices.add(index)
        has_more_than_text = self._record_delta(index, choice)
        self.histories[index].append(ids, text)
        self.has_token_ids = self.has_token_ids or bool(ids)
        return has_more_than_text

    def record_logprobs(self, index: int, scored: dict[str, Any], extra: dict[str, Any]) -> None:
        """Add logprobs that are sent to the client to choice `index`, and to `extra`, its record."""
        extra["logprobs"] = scored
        self._text_offsets[index].add(scored)

    def _record_delta(self, index: int, choice: Mapping[str, Any]) -> bool:
        """Record a chat chunk's fields beside the text; return whether it has any, or its parser holds something."""
        delta = choice.get("delta")
        if delta is None:
            return False
        if chunks.has_no_output(delta):
            self.buffering_parsers.add(index)
            return True
        if not chunks.has_parsed_output(delta):
            return False
        self.deltas[index].new_part(delta)
        return True

    def has_parser_state(self, index: int) -> bool:
        """Return whether the state of the choice includes a parser's.

        A parser that holds ids before the first text may have started to read reasoning; after the first text it holds
        only a partial character.
        """
        holds_ids = index in self.buffering_parsers and not self.histories[index].text_length
        return holds_ids or not self.deltas[index].is_empty

    def is_hidden_reasoning(self, index: int, choice: Mapping[str, Any]) -> bool:
        """Return whether a chunk is reasoning that the client does not want; a reprompt has no delta, and none."""
        delta = choice.get("delta")
        if delta is None or not self.generation.hides_reasoning:
            return False
        return chunks.carries_reasoning(delta, has_text=self.histories[index].text_length > 0)

    # records and events

    def emit_templated(self, token: bytes, text: bytes, client_part: bytes) -> bytes:
        """Return the client's event for one that the template matches, and add its token record."""
        self._unapplied_token_records += 1
        self.journal += b"%d %b %b\n" % (self.token_record_choice, token, text)
        return self.writer.encode_templated(client_part)

    def apply_token_records(self) -> None:
        """Add the unapplied token records to their history."""
        if self._unapplied_token_records:
            self.histories[self.token_record_choice].append_tokens(
                *parse_token_records(self.journal[self._unapplied_from :])
            )
            self._unapplied_token_records = 0
        self._unapplied_from = len(self.journal)

    def apply_envelope(self, chunk: dict[str, Any], *, is_first_engine: bool) -> dict[str, Any]:
        """Replace another engine's envelope by the first one's; return what the first record adds for all of them."""
        if self.writer.known_envelope is None:
            extra: dict[str, Any] = {"frame": self.writer.set_envelope(chunk)}
            return extra | ({"echoes": self.generation.echoes} if self.generation.prepends_prompt else {})
        if not is_first_engine:
            chunk.update(self.writer.known_envelope)
        return {}

    def emit(self, chunk: bytes, index: int, text: str, extra: dict[str, Any]) -> bytes:
        """Add the record of a chunk to the journal; return the client's event. extra: see `records.Record`."""
        history = self.histories[index]
        if index not in self._prompt_recorded and history.prompt_ids is not None:
            self._prompt_recorded.add(index)
            extra = {**extra, "prompt": history.prompt_ids}
        self.last_had_no_extra = not extra
        start, ids, resume_length = history.next_record()
        self.journal += encode_record(index, start, ids, text, resume_length, extra or None)
        self._unapplied_from = len(self.journal)
        return self.writer.encode(chunk)

    def apply_record(self, record: Record | TokenRecord) -> bytes:
        """Apply a record of this stream's journal; return its event, built again. Raises ValueError."""
        if not 0 <= record.choice < len(self.histories):
            raise ValueError(f"a record of choice {record.choice}")
        if isinstance(record, TokenRecord):
            history = self.histories[record.choice]
            history.append_tokens([record.token], [record.text])
            return self.writer.encode(self.writer.build_chunk(history, record.choice, record.text, [record.token], {}))
        return self._apply_full_record(record)

    def _apply_full_record(self, record: Record) -> bytes:
        extra, history = record.extra or {}, self.histories[record.choice]
        self.writer.known_envelope = extra.get("frame", self.writer.known_envelope)
        if (echoes := extra.get("echoes")) is not None:
            self.set_echoes(echoes)
        if (prompt := extra.get("prompt")) is not None:
            self._prompt_recorded.add(record.choice)
            history.prompt_ids = tuple(prompt)
        new_ids = history.apply_record(record.at, record.ids, record.text, record.resume_length)
        self.has_token_ids = self.has_token_ids or bool(record.ids)
        history.finish_reason = extra.get("reason", history.finish_reason)
        if (scored := extra.get("logprobs")) is not None:
            self._text_offsets[record.choice].add(scored)
        chunk = extra.get("chunk")
        if chunk is None or chunk["choices"]:
            self.started_choices.add(record.choice)
        if chunk is None:
            return self.writer.encode(
                self.writer.build_chunk(history, record.choice, record.text, list(new_ids), extra)
            )
        self._usage_sent = self._usage_sent or not chunk["choices"]
        for choice in chunk["choices"]:
            if prompt_echo.is_chat_echo(self.generation, choice):
                self.echoed_choices.add(record.choice)
            self._record_delta(record.choice, choice)
        return self.writer.encode(orjson.dumps(chunk))

    def finish_restore(self) -> None:
        """Finish restoring, after the last record and once the journal has all of them."""
        self._unapplied_from = len(self.journal)
        self.share_prompts()

    def on_usage(self, chunk: dict[str, Any], *, is_part: bool) -> bytes:
        """Return the event for an engine's usage, often b"".

        is_part: the engine generated only a part of the answer; `end_of_stream` counts all parts.
        """
        if is_part and isinstance(usage := chunk.get("usage"), dict):
            self._engine_usage = usage
        if is_part or not self.generation.wants_usage or self._usage_sent:
            return b""
        return self._emit_usage({**chunk, **self.writer.envelope()})

    def _emit_usage(self, chunk: dict[str, Any]) -> bytes:
        self._usage_sent = True
        return self.emit(orjson.dumps(chunk), 0, "", {"chunk": chunk})

    def end_of_stream(self) -> bytes:
        """Return the last events: a usage that is still missing, and [DONE]."""
        out = b""
        if self.generation.wants_usage and not self._usage_sent:
            out = self._emit_usage({**self.writer.envelope(), "choices": [], "usage": self._total_usage()})
        return out + sse.message(sse.DONE)

    @property
    def prompt_tokens(self) -> int:
        """Tokens of all prompts, as far as an engine returned them."""
        each_prompt = {self.generation.prompt_index(index): history for index, history in enumerate(self.histories)}
        return sum(len(history.prompt_ids or ()) for history in each_prompt.values())

    def _total_usage(self) -> dict[str, Any]:
        prompt_tokens = self.prompt_tokens
        details = chunks.usage_details(self._engine_usage, prompt_tokens)
        return {**chunks.usage(prompt_tokens, self.tokens), **details}

    def record_prompt_ids(
        self, index: int, chunk: Mapping[str, Any], choice: Mapping[str, Any], *, is_repeated: bool
    ) -> None:
        """Record the prompt's ids, if an engine's chunk has them.

        A chat's prompt comes once for all choices, a completion's with the first chunk of each choice, or not at all:
        when the client reads slowly vLLM merges outputs, and the prompt's ids in the second are lost. So all choices of
        a prompt share the ids of the first.

        Args:
            index: the number of the choice.
            chunk: the engine's chunk.
            choice: the only choice in it.
            is_repeated: the engine received the same request as one before it.

        Raises:
            ValueError: a repeated request has another prompt than before.
        """
        ids = chunk.get("prompt_token_ids") or choice.get("prompt_token_ids")
        history = self.histories[index]
        if not ids:
            return
        if history.prompt_ids is None:
            history.prompt_ids = tuple(ids)
            self.share_prompts()
        elif is_repeated and history.prompt_ids != tuple(ids):
            raise ValueError("another prompt")

    def share_prompts(self) -> None:
        """Copy the prompt ids of any choice to all choices of the same prompt."""
        number = self.generation.prompt_index
        known = {
            number(index): history.prompt_ids for index, history in enumerate(self.histories) if history.prompt_ids
        }
        for index, history in enumerate(self.histories):
            history.prompt_ids = history.prompt_ids or known.get(number(index))
