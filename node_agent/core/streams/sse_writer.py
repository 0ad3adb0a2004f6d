"""Encode the client's events of a stream: numbered, all under the id, model and time of the first engine's answer."""

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
    """Encode the events of one stream.

    Args:
        generation: the request; its prompts' texts may be added later.
        stream_id: the first part of each event's id.
        ranges: the owners of the stream and their first events (`core/journal/epochs`).
    """

    def __init__(self, generation: GenerationRequest, stream_id: str, ranges: Sequence[EpochRange]) -> None:
        self.ranges = ranges
        self.seq = 0  # the number of the last event
        # False: the client cannot use event ids, and gets what a stock vLLM sends (`core/openai/client_headers`).
        self.includes_ids = True
        self.known_envelope: dict[str, Any] | None = None  # the fields that all chunks share
        self.generation = generation
        self._id = stream_id.encode()
        self._suffix = b""
        self._suffix_is_final = len(ranges) <= 1

    def set_envelope(self, chunk: Mapping[str, Any]) -> dict[str, Any]:
        """Set and return the envelope, from an engine's first chunk."""
        self.known_envelope = {key: chunk.get(key) for key in _ENVELOPE_FIELDS}
        return self.known_envelope

    def envelope(self) -> dict[str, Any]:
        """Return the fields that all chunks share."""
        if self.known_envelope is None:
            raise InvalidTransition("a chunk without a first chunk")
        return self.known_envelope

    def encode(self, chunk: bytes, name: bytes = b"") -> bytes:
        """Encode the next event. name: the event's name, b"" for none."""
        self.seq = seq = self.seq + 1
        if not self.includes_ids:
            return sse.named_event(name, chunk) if name else sse.message(chunk)
        suffix = self._suffix if self._suffix_is_final else self._update_suffix()
        if name:
            return b"id: %b/%d%b\nevent: %b\ndata: %b\n\n" % (self._id, seq, suffix, name, chunk)
        return b"id: %b/%d%b\ndata: %b\n\n" % (self._id, seq, suffix, chunk)

    def encode_templated(self, after_number: bytes) -> bytes:
        """Encode the next event from its bytes. after_number: all that follows the number, from its line end on."""
        self.seq = seq = self.seq + 1
        if not self.includes_ids:
            return after_number[1:]
        suffix = self._suffix if self._suffix_is_final else self._update_suffix()
        return b"id: %b/%d%b%b" % (self._id, seq, suffix, after_number)

    def _update_suffix(self) -> bytes:
        """Find the id suffix of the next event: replayed events of earlier owners keep the suffix that they had."""
        self._suffix = event_id_suffix(self.ranges, self.seq)
        self._suffix_is_final = self.seq > self.ranges[-1].after
        return self._suffix

    def build_chunk(
        self,
        history: TokenHistory,
        index: int,
        text: str,
        ids: list[int],
        fields: Mapping[str, Any],
        delta_part: Mapping[str, Any] | None = None,
    ) -> bytes:
        """Build a chunk in the client's form.

        Args:
            history: the choice's history, for running usage.
            index: the choice.
            text: the text that the chunk adds.
            ids: the ids that the chunk adds.
            fields: see `chunks.make_choice`.
            delta_part: what a chat's delta adds beside the text.

        Returns:
            The chunk in JSON.
        """
        generation = self.generation
        full_text = generation.echo(index) + text if fields.get("role") else text
        choice = chunks.make_choice(generation.route, index, full_text, ids if generation.wants_ids else None, fields)
        if delta_part:
            choice["delta"] |= delta_part
            if not full_text:
                del choice["delta"]["content"]
        chunk = {**self.envelope(), "choices": [choice]}
        if generation.wants_running_usage:
            chunk["usage"] = chunks.usage(len(history.prompt_ids or ()), len(history.ids))
        return orjson.dumps(chunk)
