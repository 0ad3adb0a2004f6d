"""Encode and parse a stream's header: what a continuation needs and the journal's records lack. One line of JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import orjson

from node_agent.contract.errors import RequestRejected
from node_agent.core.common.packed_json import dump_compact
from node_agent.core.journal.epochs import EpochRange, epoch_from_json
from node_agent.core.journal.stream_claim import NO_CLAIM, StreamClaim, read_claim
from node_agent.core.openai.generation_request import ApiRoute, GenerationRequest, read_generation


@dataclass(frozen=True)
class StreamHeader:
    """What a stream started with."""

    generation: GenerationRequest
    ranges: tuple[EpochRange, ...]
    """The owners of the stream and their first events; the last one wrote this header."""
    request_id: str | None
    """The client's own id, None where it sent none."""
    durable: bool = True
    """The client wants its journal replicated."""
    claim: StreamClaim = NO_CLAIM
    """Who may resume the stream."""

    def to_bytes(self) -> bytes:
        """Serialize the header; `parse_stream_header` parses it."""
        return dump_compact(
            {
                # First: `read_claim` reads nothing else.
                **({"claim": str(self.claim)} if self.claim.token_digest else {}),
                "kind": self.generation.route.value,
                "body": self.generation.original_body,
                "runs": _ranges_to_json(self.ranges),
                "request_id": self.request_id,
                **({} if self.durable else {"durable": False}),
            }
        )


def _ranges_to_json(ranges: Sequence[EpochRange]) -> list[list[object]]:
    return [[each.after, *each.epoch.to_json()] for each in ranges]


def parse_stream_header(data: bytes) -> StreamHeader:
    """Parse a stream's header. Raises ValueError where it is none."""
    try:
        value = orjson.loads(data)
        generation = read_generation(ApiRoute(value["kind"]), orjson.dumps(value["body"]))
        ranges = tuple(EpochRange(int(after), epoch_from_json(epoch)) for after, *epoch in value["runs"])
    except (RequestRejected, KeyError, TypeError) as error:
        raise ValueError(f"not a stream's header: {error}") from error
    if not ranges:
        raise ValueError("not a stream's header: it names no owner")
    durable = value.get("durable", True) is not False
    return StreamHeader(generation, ranges, value.get("request_id"), durable, read_claim(data))


def is_durable(data: bytes) -> bool:
    """Return whether the client of the stream with this header wants its journal replicated; False for no header."""
    try:
        return orjson.loads(data).get("durable", True) is not False
    except (orjson.JSONDecodeError, AttributeError):
        return False
