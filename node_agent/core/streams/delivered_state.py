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
from node_agent.core.journal.records import Record, TokenRecord, read_plain_lines, write_line
from node_agent.core.journal.token_history import TokenHistory
from node_agent.core.openai import chunks, logprobs, prompt_echo
from node_agent.core.openai.generation_request import GenerationRequest
from node_agent.core.streams.delta_tracker import DeltaTracker
from node_agent.core.streams.sse_writer import SseWriter


class DeliveredState:
    """events: those of the client; journals: one for each choice; log: the journal's lines."""

    def __init__(self, generation: GenerationRequest, stream_id: str, runs: Sequence[EpochRange] = ()) -> None:
        self.generation = generation
        self.events = SseWriter(generation, stream_id, runs)
        self.journals = [TokenHistory(generation.held_back, generation.told_ids) for _ in range(generation.choices)]
        self.log = bytearray()
        self._plain_choice = 0
        self._plain_lines = 0  # the last of the log, not yet in their journal
        self._plain_from = 0  # where in the log they begin
        self._said_no_more = False  # the last event had an id and a text, and nothing beside them
        self._attempts = 0  # engines asked so far
        self._generated = False  # an engine reported ids: from then on only the rest may be asked for
        self._begun: set[int] = set()  # choices whose role or echo the client has
        self._echoed: set[int] = set()  # choices of a chat whose echo the client has
        self._prompted: set[int] = set()  # choices whose prompt ids are in a line
        self._offsets = [logprobs.Offsets() for _ in self.journals]
        self._deltas = [DeltaTracker() for _ in self.journals]
        self._kept_back: set[int] = set()  # choices of which a parser had an id and said nothing
        self._usage_sent = False
        self._usage_told: Mapping[str, Any] = {}  # by the last engine that went on

    @property
    def seq(self) -> int:
        """The number of the last event."""
        return self.events.seq

    @property
    def attempts(self) -> int:
        """Engines asked so far."""
        return self._attempts

    @property
    def tokens(self) -> int:
        """Ids generated so far, as the engines counted them."""
        return sum(len(journal.ids) for journal in self.journals) + self._plain_lines

    @property
    def _was_heard(self) -> bool:
        """Whether the client has anything of the answer, the end of a choice included, or knows of any id."""
        if self._generated and self.generation.told_ids:
            return True
        if any(journal.length or journal.finish_reason is not None for journal in self.journals):
            return True
        return not all(deltas.is_empty for deltas in self._deltas)

    def _unfinished(self) -> list[int]:
        return [at for at, journal in enumerate(self.journals) if journal.finish_reason is None]

    # what a choice has beside its text

    def _know_echoes(self, echoes: Sequence[str]) -> None:
        self.generation = self.events.generation = replace(self.generation, echoes=tuple(echoes))

    def _offset(self, index: int) -> int:
        """Where in the text, as logprobs count it, the next id belongs."""
        journal = self.journals[index]
        scored = len(journal.prompt_ids or ()) if self.generation.scores_prompt else 0
        return self._offsets[index].of(scored + len(journal.ids))

    def _note_delta(self, index: int, choice: Mapping[str, Any]) -> bool:
        """Account for what a chat's chunk says beside the text; whether it says, or keeps, anything there."""
        delta = choice.get("delta")
        if delta is None:
            return False
        if chunks.is_silent(delta):
            self._kept_back.add(index)
            return True
        if not chunks.is_parsed(delta):
            return False
        self._deltas[index].unseen(delta)
        return True

    def _is_parsed(self, index: int) -> bool:
        """Whether a parser's state is a part of the choice's.

        One that kept ids to itself, and has not let any text through, may have begun to read a reasoning; behind the
        first text it is half a character that it keeps.
        """
        is_read = index in self._kept_back and not self.journals[index].length
        return is_read or not self._deltas[index].is_empty

    # lines, and events made of them

    def _plain(self, token: bytes, text: bytes, shown: bytes) -> bytes:
        """The client's event for one that the template matches."""
        self._plain_lines += 1
        self.log += b"%d %b %b\n" % (self._plain_choice, token, text)
        return self.events.shown(shown)

    def _catch_up(self) -> None:
        """Take what the plain lines say into their journal."""
        if self._plain_lines:
            self.journals[self._plain_choice].append_plain(*read_plain_lines(self.log[self._plain_from :]))
            self._plain_lines = 0
        self._plain_from = len(self.log)

    def _event(self, chunk: bytes, index: int, text: str, extra: dict[str, Any]) -> bytes:
        journal = self.journals[index]
        if index not in self._prompted and journal.prompt_ids is not None:
            self._prompted.add(index)
            extra = {**extra, "prompt": journal.prompt_ids}
        self._said_no_more = not extra
        at, ids, mark = journal.unwritten()
        self.log += write_line(index, at, ids, text, mark, extra or None)
        self._plain_from = len(self.log)
        return self.events.numbered(chunk)

    def read_line(self, line: Record | TokenRecord) -> bytes:
        """Account for a line of this stream's journal; its event, made again. Raises ValueError."""
        if not 0 <= line.choice < len(self.journals):
            raise ValueError(f"a line of choice {line.choice}")
        if isinstance(line, TokenRecord):
            journal = self.journals[line.choice]
            journal.append_plain([line.token], [line.text])
            return self.events.numbered(self.events.made(journal, line.choice, line.text, [line.token], {}))
        return self._read_full(line)

    def _read_full(self, line: Record) -> bytes:
        extra, journal = line.extra or {}, self.journals[line.choice]
        self.events.frame = extra.get("frame", self.events.frame)
        if (echoes := extra.get("echoes")) is not None:
            self._know_echoes(echoes)
        self._attempts = max(self._attempts, 1)
        if (prompt := extra.get("prompt")) is not None:
            self._prompted.add(line.choice)
            journal.prompt_ids = tuple(prompt)
        new_ids = journal.read_line(line.at, line.ids, line.text, line.mark)
        self._generated = self._generated or bool(line.ids)
        journal.finish_reason = extra.get("reason", journal.finish_reason)
        if (told := extra.get("logprobs")) is not None:
            self._offsets[line.choice].note(told)
        chunk = extra.get("chunk")
        if chunk is None or chunk["choices"]:
            self._begun.add(line.choice)
        if chunk is None:
            return self.events.numbered(self.events.made(journal, line.choice, line.text, list(new_ids), extra))
        self._usage_sent = self._usage_sent or not chunk["choices"]
        for choice in chunk["choices"]:
            if prompt_echo.is_chat_echo(self.generation, choice):
                self._echoed.add(line.choice)
            self._note_delta(line.choice, choice)
        return self.events.numbered(orjson.dumps(chunk))

    def _usage_event(self, chunk: dict[str, Any]) -> bytes:
        self._usage_sent = True
        return self._event(orjson.dumps(chunk), 0, "", {"chunk": chunk})

    def _usage(self) -> dict[str, Any]:
        each_prompt = {self.generation.prompt_number(at): journal for at, journal in enumerate(self.journals)}
        prompt_tokens = sum(len(journal.prompt_ids or ()) for journal in each_prompt.values())
        details = chunks.usage_details(self._usage_told, prompt_tokens)
        return {**chunks.usage(prompt_tokens, self.tokens), **details}

    def _share_prompts(self) -> None:
        """What one choice's journal knows of its prompt, those of all choices of that prompt do."""
        number = self.generation.prompt_number
        known = {number(at): journal.prompt_ids for at, journal in enumerate(self.journals) if journal.prompt_ids}
        for at, journal in enumerate(self.journals):
            journal.prompt_ids = journal.prompt_ids or known.get(number(at))
