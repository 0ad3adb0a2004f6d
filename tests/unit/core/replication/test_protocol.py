"""Test the replication frames: whole in any cuts, and refused when forged, repeated or reflected."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node_agent.core.replication.protocol import (
    ACK,
    APPEND,
    REFUSED,
    BadFrame,
    FrameReader,
    FrameWriter,
    Message,
    derive_connection_key,
    encode,
    encode_refused,
    read_refused,
)
from node_agent.core.replication.refusal import RefusalReason

KEY = derive_connection_key(b"cluster key", "a", "b")
MESSAGES = st.lists(st.builds(Message, st.integers(0, 5), st.integers(0, 9), st.integers(0, 9), st.binary(max_size=20)))


@given(st.lists(MESSAGES, max_size=5), st.integers(1, 50))
def test_messages_arrive_whole_however_they_are_cut(frames: list[list[Message]], step: int) -> None:
    sealer, opener = FrameWriter(KEY, b"owner"), FrameReader(KEY, b"owner")
    data = b"".join(sealer.frame(b"".join(encode(*message) for message in messages)) for messages in frames)
    assert [frame for at in range(0, len(data), step) for frame in opener.feed(data[at : at + step])] == frames


def frame(key: bytes = KEY, side: bytes = b"owner") -> bytes:
    return FrameWriter(key, side).frame(encode(APPEND, 1, 1, b"x"))


@pytest.mark.parametrize(
    "data",
    [
        frame(key=derive_connection_key(b"another key", "a", "b")),
        frame(key=derive_connection_key(b"cluster key", "a", "c")),
        frame(side=b"replica"),
        frame() + frame(),
        frame()[:-1] + b"y",
        b"\xff\xff\xff\xff" + frame(),
        b"GET / HTTP/1.1\r\n\r\n" + b"x" * 100,
    ],
    ids=["other-cluster", "other-connection", "sent-back", "repeated", "changed", "too-long", "http"],
)
def test_a_frame_that_was_signed_for_another_place_or_connection_is_refused(data: bytes) -> None:
    with pytest.raises(BadFrame):
        FrameReader(KEY, b"owner").feed(data)


def test_a_frame_is_bounded() -> None:
    with pytest.raises(BadFrame, match="a frame of"):
        FrameReader(KEY, b"owner", max_frame_bytes=20).feed(frame())


def test_a_message_with_a_wrong_length_is_refused() -> None:
    lie = encode(ACK, 1, 1)[:-1] + b"\x09"
    with pytest.raises(BadFrame, match="longer than its frame"):
        FrameReader(KEY, b"owner").feed(FrameWriter(KEY, b"owner").frame(lie))


@pytest.mark.parametrize("reason", RefusalReason)
def test_a_refusal_is_sent_with_its_reason(reason: RefusalReason) -> None:
    data = FrameWriter(KEY, b"replica").frame(encode_refused(7, reason))
    (((kind, handle, number, body),),) = FrameReader(KEY, b"replica").feed(data)
    assert (kind, handle, number, body) == (REFUSED, 7, 0, str(reason).encode())
    assert read_refused(body) is reason


def test_the_reasons_on_the_wire_stay_what_other_versions_send() -> None:
    sent = {"stale", "gap", "full", "share", "too-large", "unknown", "unreadable"}
    assert {str(reason) for reason in RefusalReason} == sent


@pytest.mark.parametrize("body", [b"", b"of-a-later-version", b"STALE", b"stale ", b"\xff\xfe"])
def test_a_reason_of_a_later_version_is_unreadable(body: bytes) -> None:
    assert read_refused(body) is RefusalReason.UNREADABLE
