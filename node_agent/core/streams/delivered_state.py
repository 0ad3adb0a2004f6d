"""The account of one stream: what its client has, in journals, numbered events, and a line for each event.

It knows nothing of engines: `core/streams/chunk_stream` does, whose machine this is the half of. Read back from its
lines it is the same account again, on another node (`read_line`).

An event that has only an id and a text gets a plain line, which nobody reads until somebody needs the journals: then
`_catch_up` takes them in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import orjson

from node_agent.core.journal.epochs import EpochRange
from node_agent.core.journal.records import Record, TokenRecord, encode_record, parse_token_records
from node_agent.core.journal.token_history import TokenHistory
from node_agent.core.openai import chunks, logprobs, prompt_echo
from node_agent.core.openai.generation_request import GenerationRequest
from node_agent.core.streams.delta_tracker import DeltaTracker
from node_agent.core.streams.sse_writer import SseWriter


class DeliveredState:
    """events: those of the client; journals: one for each choice; log: the journal's lines."""

    def __init__(self, generation: GenerationRequest, stream_id: str, runs: Sequence[EpochRange] = ()) -> None:
        self.generation = generation
        self.writer = SseWriter(generation, stream_id, runs)
        self.histories = [
            TokenHistory(generation.stop_holdback_chars, generation.exposes_token_ids)
            for _ in range(generation.choices)
        ]
        self.journal = bytearray()
        self._token_record_choice = 0
        self._unapplied_token_records = 0  # the last of the log, not yet in their journal
        self._unapplied_from = 0  # where in the log they begin
        self._last_had_no_extra = False  # the last event had an id and a text, and nothing beside them
        self._engine_attempts = 0  # engines asked so far
        self._has_token_ids = False  # an engine reported ids: from then on only the rest may be asked for
        self._started_choices: set[int] = set()  # choices whose role or echo the client has
        self._echoed_choices: set[int] = set()  # choices of a chat whose echo the client has
        self._prompt_recorded: set[int] = set()  # choices whose prompt ids are in a line
        self._text_offsets = [logprobs.TextOffsets() for _ in self.histories]
        self._deltas = [DeltaTracker() for _ in self.histories]
        self._buffering_parsers: set[int] = set()  # choices of which a parser had an id and said nothing
        self._usage_sent = False
        self._engine_usage: Mapping[str, Any] = {}  # by the last engine that went on

    @property
    def seq(self) -> int:
        """The number of the last event."""
        return self.writer.seq

    @property
    def engine_attempts(self) -> int:
        """Engines asked so far."""
        return self._engine_attempts

    @property
    def tokens(self) -> int:
        """Ids generated so far, as the engines counted them."""
        return sum(len(journal.ids) for journal in self.histories) + self._unapplied_token_records

    @property
    def _has_output(self) -> bool:
        """Whether the client has anything of the answer, the end of a choice included, or knows of any id."""
        if self._has_token_ids and self.generation.exposes_token_ids:
            return True
        if any(journal.text_length or journal.finish_reason is not None for journal in self.histories):
            return True
        return not all(deltas.is_empty for deltas in self._deltas)

    def _unfinished_choices(self) -> list[int]:
        return [at for at, journal in enumerate(self.histories) if journal.finish_reason is None]

    # what a choice has beside its text

    def _set_echoes(self, echoes: Sequence[str]) -> None:
        self.generation = self.writer.generation = replace(self.generation, echoes=tuple(echoes))

    def _next_text_offset(self, index: int) -> int:
        """Where in the text, as logprobs count it, the next id belongs."""
        journal = self.histories[index]
        scored = len(journal.prompt_ids or ()) if self.generation.returns_prompt_logprobs else 0
        return self._text_offsets[index].at(scored + len(journal.ids))

    def _record_delta(self, index: int, choice: Mapping[str, Any]) -> bool:
        """Account for what a chat's chunk says beside the text; whether it says, or keeps, anything there."""
        delta = choice.get("delta")
        if delta is None:
            return False
        if chunks.has_no_output(delta):
            self._buffering_parsers.add(index)
            return True
        if not chunks.has_parsed_output(delta):
            return False
        self._deltas[index].new_part(delta)
        return True

    def _has_parser_state(self, index: int) -> bool:
        """Whether a parser's state is a part of the choice's.

        One that kept ids to itself, and has not let any text through, may have begun to read a reasoning; behind the
        first text it is half a character that it keeps.
        """
        is_read = index in self._buffering_parsers and not self.histories[index].text_length
        return is_read or not self._deltas[index].is_empty

    # lines, and events made of them

    def _emit_templated(self, token: bytes, text: bytes, shown: bytes) -> bytes:
        """The client's event for one that the template matches."""
        self._unapplied_token_records += 1
        self.journal += b"%d %b %b\n" % (self._token_record_choice, token, text)
        return self.writer.encode_templated(shown)

    def _apply_token_records(self) -> None:
        """Take what the plain lines say into their journal."""
        if self._unapplied_token_records:
            self.histories[self._token_record_choice].append_tokens(
                *parse_token_records(self.journal[self._unapplied_from :])
            )
            self._unapplied_token_records = 0
        self._unapplied_from = len(self.journal)

    def _emit(self, chunk: bytes, index: int, text: str, extra: dict[str, Any]) -> bytes:
        journal = self.histories[index]
        if index not in self._prompt_recorded and journal.prompt_ids is not None:
            self._prompt_recorded.add(index)
            extra = {**extra, "prompt": journal.prompt_ids}
        self._last_had_no_extra = not extra
        at, ids, mark = journal.next_record()
        self.journal += encode_record(index, at, ids, text, mark, extra or None)
        self._unapplied_from = len(self.journal)
        return self.writer.encode(chunk)

    def apply_record(self, line: Record | TokenRecord) -> bytes:
        """Account for a line of this stream's journal; its event, made again. Raises ValueError."""
        if not 0 <= line.choice < len(self.histories):
            raise ValueError(f"a line of choice {line.choice}")
        if isinstance(line, TokenRecord):
            journal = self.histories[line.choice]
            journal.append_tokens([line.token], [line.text])
            return self.writer.encode(self.writer.build_chunk(journal, line.choice, line.text, [line.token], {}))
        return self._apply_full_record(line)

    def _apply_full_record(self, line: Record) -> bytes:
        extra, journal = line.extra or {}, self.histories[line.choice]
        self.writer.known_envelope = extra.get("frame", self.writer.known_envelope)
        if (echoes := extra.get("echoes")) is not None:
            self._set_echoes(echoes)
        self._engine_attempts = max(self._engine_attempts, 1)
        if (prompt := extra.get("prompt")) is not None:
            self._prompt_recorded.add(line.choice)
            journal.prompt_ids = tuple(prompt)
        new_ids = journal.apply_record(line.at, line.ids, line.text, line.resume_length)
        self._has_token_ids = self._has_token_ids or bool(line.ids)
        journal.finish_reason = extra.get("reason", journal.finish_reason)
        if (told := extra.get("logprobs")) is not None:
            self._text_offsets[line.choice].add(told)
        chunk = extra.get("chunk")
        if chunk is None or chunk["choices"]:
            self._started_choices.add(line.choice)
        if chunk is None:
            return self.writer.encode(self.writer.build_chunk(journal, line.choice, line.text, list(new_ids), extra))
        self._usage_sent = self._usage_sent or not chunk["choices"]
        for choice in chunk["choices"]:
            if prompt_echo.is_chat_echo(self.generation, choice):
                self._echoed_choices.add(line.choice)
            self._record_delta(line.choice, choice)
        return self.writer.encode(orjson.dumps(chunk))

    def _emit_usage(self, chunk: dict[str, Any]) -> bytes:
        self._usage_sent = True
        return self._emit(orjson.dumps(chunk), 0, "", {"chunk": chunk})

    def _total_usage(self) -> dict[str, Any]:
        each_prompt = {self.generation.prompt_index(at): journal for at, journal in enumerate(self.histories)}
        prompt_tokens = sum(len(journal.prompt_ids or ()) for journal in each_prompt.values())
        details = chunks.usage_details(self._engine_usage, prompt_tokens)
        return {**chunks.usage(prompt_tokens, self.tokens), **details}

    def _share_prompts(self) -> None:
        """What one choice's journal knows of its prompt, those of all choices of that prompt do."""
        number = self.generation.prompt_index
        known = {number(at): journal.prompt_ids for at, journal in enumerate(self.histories) if journal.prompt_ids}
        for at, journal in enumerate(self.histories):
            journal.prompt_ids = journal.prompt_ids or known.get(number(at))
