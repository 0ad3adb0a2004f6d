"""What a stream began with: all that its journal's lines do not say, for whoever goes on with it. One line of JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import orjson

from node_agent.contract.errors import RequestRejected
from node_agent.core.common.packed_json import dump_compact
from node_agent.core.journal.epochs import EpochRange, epoch_from_json
from node_agent.core.openai.generation_request import ApiRoute, GenerationRequest, read_generation


@dataclass(frozen=True)
class StreamHeader:
    """runs: who owned the stream from which event on, the writer of this the last; request_id: the client's own.

    durable: whether the client wants its journal kept.
    """

    generation: GenerationRequest
    ranges: tuple[EpochRange, ...]
    request_id: str | None
    durable: bool = True

    def to_bytes(self) -> bytes:
        return dump_compact(
            {
                "kind": self.generation.route.value,
                "body": self.generation.original_body,
                "runs": _runs_to_json(self.ranges),
                "request_id": self.request_id,
                **({} if self.durable else {"durable": False}),
            }
        )


def _runs_to_json(runs: Sequence[EpochRange]) -> list[list[object]]:
    return [[run.after, *run.epoch.to_json()] for run in runs]


def parse_stream_header(data: bytes) -> StreamHeader:
    """Raises ValueError where it is none."""
    try:
        value = orjson.loads(data)
        generation = read_generation(ApiRoute(value["kind"]), orjson.dumps(value["body"]))
        runs = tuple(EpochRange(int(after), epoch_from_json(epoch)) for after, *epoch in value["runs"])
    except (RequestRejected, KeyError, TypeError) as error:
        raise ValueError(f"not a stream's opening: {error}") from error
    if not runs:
        raise ValueError("not a stream's opening: nobody owned it")
    return StreamHeader(generation, runs, value.get("request_id"), value.get("durable", True) is not False)


def is_durable(data: bytes) -> bool:
    """Whether the client of the stream with this opening wants its journal kept; False where it is no opening."""
    try:
        return orjson.loads(data).get("durable", True) is not False
    except (orjson.JSONDecodeError, AttributeError):
        return False
