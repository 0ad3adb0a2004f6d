"""The SSE parser: any cuts give the same events."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai._streaming import SSEDecoder

from node_agent.core.openai import sse
from node_agent.core.openai.sse import EventTooLarge, SseParser


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({min(place, len(data)) for place in cuts})
    return [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)]


TEXT = st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), min_size=1)


@given(st.lists(TEXT), st.lists(st.integers(0, 400)), st.sampled_from([b"\n", b"\r\n", b"\r"]))
def test_any_text_in_any_cuts_with_any_line_end(texts: list[str], cuts: list[int], line_end: bytes) -> None:
    data = b"".join(sse.message(text.encode()) for text in texts).replace(b"\n", line_end)
    parser = SseParser()
    events = [found for part in cut(data, cuts) for found in parser.feed(part)]
    if line_end == b"\r" and texts:
        events += parser.feed(b"\r")  # a lone CR at the very end may be half of a CRLF; nothing is lost by waiting
    assert events == [(b"", text.encode()) for text in texts]


def test_names_comments_ids_and_several_data_lines() -> None:
    stream = b": hi\n\nevent: a\ndata: 1\ndata: 2\nid: 7\nretry: 5\n\ndata:3\n\nevent: empty\n\n"
    assert SseParser().feed(stream) == [(b"a", b"1\n2"), (b"", b"3")]


def test_events_round_trip() -> None:
    written = sse.message(b"{}", b"s/1") + sse.comment("two\nlines") + sse.named_event(b"synkti-lost", b"reset")
    assert SseParser().feed(written) == [(b"", b"{}"), (b"synkti-lost", b"reset")]


def test_a_comment_between_events_with_ids_is_nothing_to_openais_sdk() -> None:
    decoder = SSEDecoder()
    stream = sse.message(b"1", b"s/1") + sse.comment("ping") + sse.comment("ping") + sse.message(b"2", b"s/2")
    assert [event.data for event in decoder.iter_bytes(iter([stream]))] == ["1", "2"]


def test_line_separators_inside_json_are_text() -> None:
    assert SseParser().feed('data: {"a":"x\u2028y\u0085z"}\n\n'.encode()) == [(b"", '{"a":"x\u2028y\u0085z"}'.encode())]


def test_half_an_event_is_none_and_too_long_a_one_is_an_error() -> None:
    parser = SseParser(max_event_bytes=16)
    assert parser.feed(b"data: 0123") == []
    with pytest.raises(EventTooLarge):
        parser.feed(b"456789abcdef")
