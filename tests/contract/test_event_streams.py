"""Streams of `/v1/responses` and `/v1/messages` on a real vLLM: cut, gone on with, compared with the whole one."""

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
from node_agent.core.streams.state import EngineRequest, StreamState
from tests.contract.continuation_runner import send
from tests.contract.event_rows import ROWS, Row
from tests.engines import MODEL, Engine
from tests.unit.core.streams.event_contents import normalized, parse_events

pytestmark = pytest.mark.vllm
TOKENS = 60
TURNS = [{"role": "user", "content": "Tell me a long story."}]
_found: dict[str, dict[str, Any]] = {}


@pytest.fixture(scope="module", autouse=True)
def written() -> Iterator[None]:
    """As in test_continuation: the rows of these routes stand behind the others in the table."""
    yield
    EVENT_RESULTS.parent.mkdir(exist_ok=True)
    before = json.loads(EVENT_RESULTS.read_text()) if EVENT_RESULTS.exists() else {}
    found = {**before, **_found}
    EVENT_RESULTS.write_text(json.dumps({row.what: found[row.what] for row in ROWS if row.what in found}, indent=1))


def places(events: int) -> list[int]:
    """Cuts at the beginning, across the middle, and among the events that end the answer."""
    return sorted({3, 6, events // 2, events - 4, events - 2, events - 1} & set(range(1, events)))


def stream_of(row: Row) -> EventStream:
    own = {"input": TURNS, "max_output_tokens": TOKENS} if row.kind is ApiRoute.RESPONSES else {}
    own = own or {"messages": TURNS, "max_tokens": TOKENS}
    body = {"model": MODEL, "stream": True, "temperature": 0, **own, **row.fields}
    return EventStream(read_generation(row.kind, orjson.dumps(body)), "s")


def play(stream: EventStream, engine: Engine, able: Collection[str], events: int | None = None) -> bytes:
    """What the client gets of the engine's first events, of its own and of the answer alike."""
    raw = b""
    for number, event in enumerate(send(engine, stream.request(able)), start=1):
        raw += stream.feed(event)
        assert stream.state is not StreamState.LOST, (stream.loss_reason, event)
        if number == events:
            break
    return raw


def told_by(engine: Engine, row: Row) -> tuple[bytes, int]:
    """The whole answer, and how many events the engine told it in."""
    stream, raw, count = stream_of(row), b"", 0
    for event in send(engine, stream.request()):
        raw += stream.feed(event)
        count += 1
    assert stream.state is StreamState.COMPLETE, stream.loss_reason
    assert stream.tokens, "no ids were told"
    return raw, count


def check_row(engine: Engine, row: Row) -> None:
    raw, count = told_by(engine, row)
    right = normalized(parse_events(raw))
    assert row.needs.encode() in raw, raw
    compared = dict.fromkeys(("resume", "forced"), 0)
    for way in compared:
        cuts = places(count)
        for cut in cuts if way == "resume" else cuts[1::2]:
            stream = stream_of(row)
            heard = play(stream, engine, (way,), cut)
            stream.on_engine_end(LossReason.RESET)
            if cut % 2 == 0:
                again = EventStream(stream.generation, "s")
                assert replay_journal(again, bytes(stream.journal), stream.seq) == b""
                stream = again
            heard += play(stream, engine, (way,))
            assert stream.state is StreamState.COMPLETE
            compared[way] += 1
            assert normalized(parse_events(heard)) == right, f"{way}, cut after {cut} of {count} events"
    assert rewind_says_nothing(engine, row, count // 2)
    _found[row.what] = {
        "what": row.what,
        "way": "resume",
        "outcome": "exact",
        "cuts": compared,
        "rewind": "says none of these events",
    }


def rewind_says_nothing(engine: Engine, row: Row, cut: int) -> bool:
    """Whether what a plain completion says behind the ids is no part of such an answer."""
    stream = stream_of(row)
    play(stream, engine, (), cut)
    stream.on_engine_end(LossReason.RESET)
    stream.request(("resume",))
    body = {"model": MODEL, "prompt": [1, 2, 3, *stream._ids], "stream": True, "max_tokens": 4}
    for event in send(engine, EngineRequest("/v1/completions", orjson.dumps(body))):
        assert stream.feed(event) == b""
    return stream.state is StreamState.LOST


@pytest.mark.parametrize("row", [pytest.param(row, id=row.what) for row in ROWS if not row.thinks])
@pytest.mark.parametrize("plugged", ["plain"], indirect=True)
def test_a_row_goes_on(plugged: Engine, row: Row) -> None:
    check_row(plugged, row)


@pytest.mark.parametrize("row", [pytest.param(row, id=row.what) for row in ROWS if row.thinks])
@pytest.mark.parametrize("plugged", ["thinks"], indirect=True)
def test_a_row_with_reasoning_goes_on(plugged: Engine, row: Row) -> None:
    check_row(plugged, row)
