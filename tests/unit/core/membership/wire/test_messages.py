"""Test messages: headers that are none, and MACs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node_agent.core.membership.wire.messages import (
    HEADER_BYTES,
    Header,
    MessageKind,
    MessageMac,
    read_header,
    write_header,
)


@pytest.mark.parametrize(
    "content",
    [b"", b"\x01", write_header(Header(MessageKind.PING, b"sender", b"to-you", 1, 1)).replace(b"\x01", b"\x02", 1),
     b"\x01\xff" + bytes(HEADER_BYTES - 2)],
    ids=["nothing", "short", "another version", "an unknown kind"],
)  # fmt: skip
def test_an_invalid_header_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"header|version|Kind"):
        read_header(content)


@given(st.binary(max_size=64), st.binary(max_size=64), st.binary(max_size=100), st.integers(0, 2000))
def test_a_sealed_frame_opens_only_unchanged_and_with_its_own_key(
    key: bytes, other: bytes, content: bytes, at: int
) -> None:
    sealed = MessageMac(key).append(content)
    assert MessageMac(key).verify(sealed) == content
    if other != key:
        assert MessageMac(other).verify(sealed) is None
    at %= len(sealed)
    assert MessageMac(key).verify(sealed[:at] + bytes((sealed[at] ^ 1,)) + sealed[at + 1 :]) is None
    assert MessageMac(key).verify(sealed[:at]) is None
