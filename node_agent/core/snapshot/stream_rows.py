"""Describe the streams whose clients are connected to a node: the longest open ones first, without any content."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from heapq import nsmallest
from typing import Any

MAX_ROWS = 40
"""Streams that are described; all are counted."""


@dataclass(frozen=True, slots=True)
class OpenStream:
    """One stream. stream_id: the public one, with which nobody can resume it; began_at: unix seconds.

    engine: the node that generates it, "" before the first; replicas: nodes that have its journal.
    """

    stream_id: str
    model: str
    engine: str
    tokens: int
    began_at: float
    engines_used: int
    replicas: int
    is_interrupted: bool


def streams_to_json(streams: Iterable[OpenStream]) -> list[dict[str, Any]]:
    """Return the MAX_ROWS streams that are open for the longest time."""
    oldest = nsmallest(MAX_ROWS, streams, key=lambda stream: (stream.began_at, stream.stream_id))
    return [
        {
            "id": stream.stream_id,
            "model": stream.model,
            "engine": stream.engine,
            "tokens": stream.tokens,
            "began": round(stream.began_at, 1),
            "engines_used": stream.engines_used,
            "replicas": stream.replicas,
            "interrupted": stream.is_interrupted,
        }
        for stream in oldest
    ]
