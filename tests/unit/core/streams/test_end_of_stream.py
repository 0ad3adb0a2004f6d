"""Ends of proxied streams: each protocol's terminal event is found, however the bytes are split."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node_agent.core.failure.loss import LossReason
from node_agent.core.openai import sse
from node_agent.core.streams.end_of_stream import EndOfStreamDetector
from node_agent.core.streams.state import LOST_EVENT

TOKEN = b'event: response.output_text.delta\ndata: {"delta":"a"}\n\n'
LAST = {
    "chat": b"data: [DONE]\n\n",
    "responses": b'event: response.completed\ndata: {"response":{}}\n\n',
    "incomplete": b'event: response.incomplete\ndata: {"response":{}}\n\n',
    "messages": b'event: message_stop\ndata: {"type":"message_stop"}\n\n',
}


@pytest.mark.parametrize("last", LAST.values(), ids=LAST)
@given(cuts=st.sets(st.integers(0, 150)))
def test_a_stream_with_its_last_event_is_whole_and_passes_unchanged(last: bytes, cuts: set[int]) -> None:
    stream, detector = TOKEN * 2 + last, EndOfStreamDetector()
    bounds = [0, *sorted(cut for cut in cuts if cut < len(stream)), len(stream)]
    passed = [detector.feed(stream[a:b]) for a, b in itertools.pairwise(bounds)]
    assert b"".join(passed) == stream
    assert detector.incomplete_reason is None


@pytest.mark.parametrize("stream", [b"", TOKEN, TOKEN + b"event: response.completed\ndata: {", b"data: nothing\n\n"])
def test_a_clean_end_without_the_last_event_is_a_loss(stream: bytes) -> None:
    detector = EndOfStreamDetector()
    assert detector.feed(stream) == stream
    assert detector.incomplete_reason == LossReason.EOF


def test_a_peers_event_of_a_lost_engine_is_not_sent_to_the_client() -> None:
    detector = EndOfStreamDetector()
    assert detector.feed(TOKEN + b"\n\n" + sse.named_event(LOST_EVENT, b"reset")) == TOKEN + b"\n\n"
    assert detector.incomplete_reason == LossReason.RESET


def test_an_event_beyond_the_bound_counts_as_a_loss() -> None:
    detector = EndOfStreamDetector(max_event_bytes=10)
    assert detector.feed(b"data: 0123456789") == b"data: 0123456789"
    assert detector.feed(LAST["chat"]) == LAST["chat"]
    assert detector.incomplete_reason == LossReason.EVENT_TOO_LARGE
