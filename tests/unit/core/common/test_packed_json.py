"""Test JSON objects whose large values are held as bytes."""

from __future__ import annotations

import gc
import tracemalloc
from typing import Any

import orjson
from hypothesis import given
from hypothesis import strategies as st

from node_agent.core.common.packed_json import SMALL_CHARACTERS, PackedJson
from node_agent.core.journal.epochs import Epoch, EpochRange
from node_agent.core.journal.stream_header import StreamHeader, parse_stream_header
from node_agent.core.openai.generation_request import ApiRoute, read_generation

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=2 * SMALL_CHARACTERS),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.text("ab", max_size=3), below, max_size=3),
    max_leaves=8,
)  # fmt: skip


@given(st.dictionaries(st.text("abc", max_size=4), VALUES, max_size=6))
def test_a_packed_object_equals_its_source(value: dict[str, Any]) -> None:
    packed = PackedJson(value)
    assert dict(packed) == value
    assert packed == value
    assert [packed.get(key) for key in (*value, "d")] == [*value.values(), None]
    assert orjson.loads(orjson.dumps(packed.as_written)) == value


def test_two_reads_share_nothing() -> None:
    packed = PackedJson({"messages": [{"content": "x"}]})
    packed["messages"][0]["content"] = "changed"
    assert packed["messages"] == [{"content": "x"}]


def test_a_stream_holds_its_request_as_bytes_and_no_objects() -> None:
    raw = orjson.dumps({"model": "m", "stream": True, "prompt": [[1, 2, 3]] * 20_000, "x": [{}] * 50_000})
    gc.collect()
    before = len(gc.get_objects())
    generation = read_generation(ApiRoute.COMPLETION, orjson.dumps({**orjson.loads(raw), "prompt": "a"}))
    gc.collect()
    assert len(gc.get_objects()) - before < 100, "half a hundred thousand objects are not there any more"
    assert orjson.loads(generation.engine_body())["x"] == [{}] * 50_000


def test_an_opening_is_written_without_reading_the_request_and_is_the_same_when_read() -> None:
    generation = read_generation(
        ApiRoute.CHAT, b'{"model": "m", "messages": [\n{"content": "a\\n"}], "n": 2, "x": [1e15]}'
    )
    opening = StreamHeader(generation, (EpochRange(0, Epoch(1, "i-0")),), None)
    written = opening.to_bytes()
    assert b"\n" not in written
    assert parse_stream_header(written) == opening


def test_a_packed_object_takes_no_more_than_its_bytes() -> None:
    generation = read_generation(ApiRoute.CHAT, orjson.dumps({"model": "m", "messages": [{"content": "x" * 100_000}]}))
    opening = StreamHeader(generation, (EpochRange(0, Epoch(1, "i-0")),), None)
    tracemalloc.start()
    written = opening.to_bytes()
    assert tracemalloc.get_traced_memory()[0] < 1.1 * len(written)
    tracemalloc.stop()
