"""What a client is sent of its stream: numbered events, all under the id, name and time of the first engine's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from node_agent.contract.errors import InvalidTransition
from node_agent.core.journal.epochs import EpochRange, event_id_suffix
from node_agent.core.journal.token_history import TokenHistory
from node_agent.core.openai import chunks, sse
from node_agent.core.openai.generation_request import GenerationRequest

_ENVELOPE_FIELDS = ("id", "object", "created", "model")


class SseWriter:
    """Makes one stream's events. seq: the number of the last; frame: what all chunks have in common, once known.

    generation: what was asked, of which the texts of prompts may be learned later.

    runs: who owned the stream from which event on (`core/journal/epochs`). shows_ids: whether the client can use
    events' ids; without them an event is what a stock vLLM sends (`core/openai/client_headers`).
    """

    def __init__(self, generation: GenerationRequest, stream_id: str, runs: Sequence[EpochRange]) -> None:
        self.ranges = runs
        self.seq = 0
        self.includes_ids = True
        self.known_envelope: dict[str, Any] | None = None
        self.generation = generation
        self._id = stream_id.encode()
        self._suffix = b""
        self._suffix_is_final = len(runs) <= 1

    def set_envelope(self, chunk: Mapping[str, Any]) -> dict[str, Any]:
        """The frame, from an engine's first chunk."""
        self.known_envelope = {key: chunk.get(key) for key in _ENVELOPE_FIELDS}
        return self.known_envelope

    def envelope(self) -> dict[str, Any]:
        if self.known_envelope is None:
            raise InvalidTransition("a chunk without a first chunk")
        return self.known_envelope

    def encode(self, chunk: bytes, name: bytes = b"") -> bytes:
        """The next event; name: where it has one of its own."""
        self.seq = seq = self.seq + 1
        if not self.includes_ids:
            return sse.named_event(name, chunk) if name else sse.message(chunk)
        run = self._suffix if self._suffix_is_final else self._update_suffix()
        if name:
            return b"id: %b/%d%b\nevent: %b\ndata: %b\n\n" % (self._id, seq, run, name, chunk)
        return b"id: %b/%d%b\ndata: %b\n\n" % (self._id, seq, run, chunk)

    def encode_templated(self, behind: bytes) -> bytes:
        """The next event, of which all is there but its number. behind: from the line end behind the number on."""
        self.seq = seq = self.seq + 1
        if not self.includes_ids:
            return behind[1:]
        run = self._suffix if self._suffix_is_final else self._update_suffix()
        return b"id: %b/%d%b%b" % (self._id, seq, run, behind)

    def _update_suffix(self) -> bytes:
        """Events of earlier owners are made again under the runs that they had; from the last one on it is known."""
        self._suffix = event_id_suffix(self.ranges, self.seq)
        self._suffix_is_final = self.seq > self.ranges[-1].after
        return self._suffix

    def build_chunk(
        self,
        journal: TokenHistory,
        index: int,
        text: str,
        ids: list[int],
        said: Mapping[str, Any],
        more: Mapping[str, Any] | None = None,
    ) -> bytes:
        """A chunk in the client's form out of what it adds to its choice; said: as of `chunks.make_choice`.

        more: what a chat's delta has beside the text.
        """
        generation = self.generation
        shown = generation.echo(index) + text if said.get("role") else text
        made = chunks.make_choice(generation.route, index, shown, ids if generation.wants_ids else None, said)
        if more:
            made["delta"] |= more
            if not shown:
                del made["delta"]["content"]
        chunk = {**self.envelope(), "choices": [made]}
        if generation.wants_running_usage:
            chunk["usage"] = chunks.usage(len(journal.prompt_ids or ()), len(journal.ids))
        return orjson.dumps(chunk)
