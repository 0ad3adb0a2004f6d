"""Streams of `/v1/responses` and `/v1/messages` on a real vLLM: cut, continued, compared with the whole answer."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from typing import Any

import orjson
import pytest

from checks.continuation_table import EVENT_RESULTS
from node_agent.core.failure.loss import LossReason
from node_agent.core.openai.generation_request import ApiRoute, read_generation
from node_agent.core.streams.event_stream import EventStream
from node_agent.core.streams.factory import replay_journal
from node_agent.core.streams.state import StreamState
from node_agent.core.streams.stream_machine import EngineRequest
from tests.contract.continuation_runner import send
from tests.contract.event_rows import ROWS, Row
from tests.engines import MODEL, Engine
from tests.unit.core.streams.event_contents import normalized, parse_events

pytestmark = pytest.mark.vllm
TOKENS = 60
TURNS = [{"role": "user", "content": "Tell me a long story."}]
_found: dict[str, dict[str, Any]] = {}


@pytest.fixture(scope="module", autouse=True)
def results_file() -> Iterator[None]:
    """Write the results as test_continuation does; the rows of these routes follow the others in the table."""
    yield
    EVENT_RESULTS.parent.mkdir(exist_ok=True)
    before = json.loads(EVENT_RESULTS.read_text()) if EVENT_RESULTS.exists() else {}
    found = {**before, **_found}
    EVENT_RESULTS.write_text(json.dumps({row.what: found[row.what] for row in ROWS if row.what in found}, indent=1))


def cut_positions(events: int) -> list[int]:
    """Return cut positions at the beginning, in the middle, and among the events that end the answer."""
    return sorted({3, 6, events // 2, events - 4, events - 2, events - 1} & set(range(1, events)))


def stream_of(row: Row) -> EventStream:
    own = {"input": TURNS, "max_output_tokens": TOKENS} if row.kind is ApiRoute.RESPONSES else {}
    own = own or {"messages": TURNS, "max_tokens": TOKENS}
    body = {"model": MODEL, "stream": True, "temperature": 0, **own, **row.fields}
    return EventStream(read_generation(row.kind, orjson.dumps(body)), "s")


def read_events(stream: EventStream, engine: Engine, supported: Collection[str], events: int | None = None) -> bytes:
    """Feed the engine's first `events` events, or all for None, and return what the client receives."""
    raw = b""
    for number, event in enumerate(send(engine, stream.request(supported)), start=1):
        raw += stream.feed(event)
        assert stream.state is not StreamState.LOST, (stream.loss_reason, event)
        if number == events:
            break
    return raw


def whole_answer(engine: Engine, row: Row) -> tuple[bytes, int]:
    """Return the whole answer as a client receives it, and the number of the engine's events."""
    stream, raw, count = stream_of(row), b"", 0
    for event in send(engine, stream.request()):
        raw += stream.feed(event)
        count += 1
    assert stream.state is StreamState.COMPLETE, stream.loss_reason
    assert stream.tokens, "no token ids were emitted"
    return raw, count


def check_row(engine: Engine, row: Row) -> None:
    raw, count = whole_answer(engine, row)
    right = normalized(parse_events(raw))
    assert row.needs.encode() in raw, raw
    compared = dict.fromkeys(("resume", "forced"), 0)
    for way in compared:
        cuts = cut_positions(count)
        for cut in cuts if way == "resume" else cuts[1::2]:
            stream = stream_of(row)
            received = read_events(stream, engine, (way,), cut)
            stream.on_engine_end(LossReason.RESET)
            if cut % 2 == 0:
                again = EventStream(stream.generation, "s")
                assert replay_journal(again, bytes(stream.journal), stream.seq) == b""
                stream = again
            received += read_events(stream, engine, (way,))
            assert stream.state is StreamState.COMPLETE
            compared[way] += 1
            assert normalized(parse_events(received)) == right, f"{way}, cut after {cut} of {count} events"
    assert reprompt_yields_no_events(engine, row, count // 2)
    _found[row.what] = {
        "what": row.what,
        "way": "resume",
        "outcome": "exact",
        "cuts": compared,
        "rewind": "gives none of these events",
    }


def reprompt_yields_no_events(engine: Engine, row: Row, cut: int) -> bool:
    """Return True if a plain completion after the ids adds nothing to such an answer, and the stream is lost."""
    stream = stream_of(row)
    read_events(stream, engine, (), cut)
    stream.on_engine_end(LossReason.RESET)
    stream.request(("resume",))
    body = {"model": MODEL, "prompt": [1, 2, 3, *stream._ids], "stream": True, "max_tokens": 4}
    for event in send(engine, EngineRequest("/v1/completions", orjson.dumps(body))):
        assert stream.feed(event) == b""
    return stream.state is StreamState.LOST


@pytest.mark.parametrize("row", [pytest.param(row, id=row.what) for row in ROWS if not row.thinks])
@pytest.mark.parametrize("plugged", ["plain"], indirect=True)
def test_a_cut_stream_of_a_row_continues_as_the_table_says(plugged: Engine, row: Row) -> None:
    check_row(plugged, row)


@pytest.mark.parametrize("row", [pytest.param(row, id=row.what) for row in ROWS if row.thinks])
@pytest.mark.parametrize("plugged", [pytest.param("thinks", marks=pytest.mark.long)], indirect=True)
def test_a_cut_stream_of_a_row_with_reasoning_continues_as_the_table_says(plugged: Engine, row: Row) -> None:
    check_row(plugged, row)
