"""Streams of events that a real vLLM 0.32 sent (data/), cut and repeated.

The repetition is the same recording with other random ids, as another engine would draw them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from node_agent.core.failure.loss import LossReason
from node_agent.core.openai.generation_request import ApiRoute, read_generation
from node_agent.core.streams.event_stream import EventStream
from node_agent.core.streams.state import StreamState
from tests.unit.core.streams.event_contents import normalized, parse_events

DATA = Path(__file__).parent / "data"
REQUESTS: dict[str, tuple[str, dict[str, Any]]] = orjson.loads((DATA / "requests.json").read_bytes())
RECORDED = sorted(path.stem for path in DATA.glob("*.jsonl") if path.stem.startswith(("messages", "responses")))
RANDOM = {"id", "item_id", "call_id", "created_at", "signature"}


def events_of(name: str, *, other_ids: bool = False) -> list[bytes]:
    lines = (DATA / f"{name}.jsonl").read_bytes().splitlines()
    recorded = [orjson.loads(line) for line in lines]
    return [
        b"event: %b\ndata: %b\n\n" % (event.encode(), orjson.dumps(_with_other_ids(data) if other_ids else data))
        for event, data in recorded
    ]


def _with_other_ids(value: Any, key: str = "") -> Any:
    if isinstance(value, dict):
        return {each: _with_other_ids(value[each], each) for each in value}
    if isinstance(value, list):
        return [_with_other_ids(each, key) for each in value]
    if key in RANDOM and value is not None:
        return value + 9 if key == "created_at" else f"other-{value}"
    return value


def stream_of(name: str) -> EventStream:
    path, body = REQUESTS[name]
    stream = EventStream(read_generation(ApiRoute(path), orjson.dumps(body)), "s")
    stream.request(("resume",))
    return stream


@pytest.mark.parametrize("name", RECORDED)
def test_a_recorded_stream_continues(name: str) -> None:
    events, repeated = events_of(name), events_of(name, other_ids=True)
    stream = stream_of(name)
    expected = normalized(parse_events(b"".join(map(stream.feed, events))))
    assert stream.state is StreamState.COMPLETE
    for cut in sorted(
        {*range(1, min(12, len(events))), *range(12, len(events), 1 + len(events) // 40), len(events) - 1}
    ):
        stream = stream_of(name)
        out = b"".join(map(stream.feed, events[:cut]))
        stream.on_engine_end(LossReason.RESET)
        stream.request(("resume",))
        out += b"".join(map(stream.feed, repeated))
        assert (stream.state, stream.loss_reason) == (StreamState.COMPLETE, LossReason.RESET), cut
        assert normalized(parse_events(out)) == expected, cut
