"""The records of streams: encoded and decoded without a loss, bounded, and moving in one direction only."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
from boto3.dynamodb.types import TypeSerializer
from hypothesis import given
from hypothesis import strategies as st

from node_agent.contract.open_streams import (
    MAX_STREAMS,
    OpenStream,
    OpenStreams,
    open_streams_from_item,
)
from node_agent.contract.ownership import Ownership, moves_forward, ownership_from_item
from node_agent.contract.table_schema import StreamStatus

NODE = "i-0123456789abcdef0"
MAX_ITEM_BYTES = 400 * 1024
"""DynamoDB's limit."""

instants = st.integers(0, 2**42).map(lambda ms: ms / 1000)
nodes = st.sampled_from([f"i-{number:017x}" for number in range(5)])
addresses = st.dictionaries(nodes, st.sampled_from(["10.0.0.1:8001", "10.255.3.77:8001"]), max_size=4)
stream_ids = st.text("0123456789abcdef", min_size=24, max_size=24)
owners = st.just(NODE) | st.text("0123456789abcdef", min_size=8, max_size=8).map(f"{NODE}+{{}}".format)


@st.composite
def open_streams(draw: st.DrawFn) -> OpenStreams:
    known = draw(addresses)
    replicas = st.lists(st.sampled_from(sorted(known)), unique=True).map(tuple) if known else st.just(())
    stream = st.builds(OpenStream, stream_ids, st.integers(1, 99), owners, st.integers(0, 10**6), instants, replicas)
    return OpenStreams(
        NODE,
        draw(st.integers(0, 2**50)),
        tuple(draw(st.lists(stream, max_size=5))),
        draw(st.integers(0, 2**40)),
        known,
        draw(st.integers(0, 9)),
        draw(st.none() | instants),
        draw(st.none() | instants),
    )


ownerships = st.builds(
    Ownership, stream_ids, st.integers(1, 4), owners, st.sampled_from(StreamStatus), st.integers(0, 9), instants,
    instants, st.integers(0, 2**40), addresses,
)  # fmt: skip


@given(open_streams())
def test_a_record_of_open_streams_is_decoded_as_it_was(record: OpenStreams) -> None:
    assert open_streams_from_item(record.to_item()) == record


@given(ownerships)
def test_an_ownership_is_decoded_as_it_was(record: Ownership) -> None:
    assert ownership_from_item(record.to_item()) == record


def test_a_full_record_fits_an_item() -> None:
    peers = {f"i-{number:017x}": f"10.{number // 250}.{number % 250}.250:8001" for number in range(1000)}
    names = list(peers)
    streams = tuple(
        OpenStream(f"{number:024x}", 99, f"{NODE}+01234567", 999_999, 1.8e9, tuple(names[number % 996 :][:4]))
        for number in range(MAX_STREAMS)
    )
    item = OpenStreams(NODE, 2**42, streams, 2**31, peers, 10**6, 1.8e9, 1.8e9).to_item()
    size = sum(len(name) + _size(value) for name, value in item.items())
    assert size < MAX_ITEM_BYTES * 0.75
    assert len(open_streams_from_item(item).streams) == MAX_STREAMS


def _size(value: Any) -> int:
    """Return an upper bound of what DynamoDB counts for a value."""
    if isinstance(value, list):
        return 3 + sum(1 + _size(each) for each in value)
    return len(str(value)) + 1


LINES = st.text(max_size=40) | st.sampled_from(
    ["", f"{'a' * 24} 1 - 5 7 -", f"{'a' * 24} 1 - 5 7 9", f"{'a' * 24} 1 - 5 7 0,", f"{'a' * 24} -1 - 5 7 -",
     f"{'a' * 24} 1 +xyz 5 7 -", f"{'a' * 24} ² - 5 7 -", f"{'a' * 24} {'9' * 400} - 5 7 -", f"{'A' * 24} 1 - 5 7 -"]
)  # fmt: skip
VALUES = st.none() | st.integers() | st.text(max_size=9) | st.lists(LINES, max_size=5) | st.lists(st.integers())


@given(st.fixed_dictionaries(dict.fromkeys(("streams", "replicas", "incarnation", "left_out"), VALUES)), st.booleans())
def test_an_item_of_anything_is_a_valid_record_or_a_value_error(fields: dict[str, Any], complete: bool) -> None:
    whole = OpenStreams(NODE, 1, (), 9).to_item()
    item = {**whole, **fields} if not complete else {**whole, "streams": fields["streams"]}
    try:
        record = open_streams_from_item(item)
    except ValueError:
        return
    TypeSerializer().serialize(record.to_item())
    for stream in record.streams:
        assert stream.owner.partition("+")[0] == NODE


def test_a_line_that_cannot_be_read_is_left_out() -> None:
    item = OpenStreams(NODE, 1, (OpenStream("a" * 24, 1, NODE, 5, 7.0),), 9).to_item()
    item["streams"] = ["?", *item["streams"], f"{'b' * 24} x - 5 7 -"]
    assert [stream.stream for stream in open_streams_from_item(item).streams] == ["a" * 24]


def test_a_replica_with_an_address_of_no_node_is_left_out() -> None:
    item = OpenStreams(
        NODE, 1, (OpenStream("a" * 24, 1, NODE, 5, 7.0, ("i-1", "i-2")),), 9, {"i-1": "x", "i-2": "10.0.0.1:8001"}
    ).to_item()
    item["replicas"] = ["i-1=169.254.169.254:80", "i-2=10.0.0.1:8001"]
    (orphan,) = open_streams_from_item(item).orphans(1.0)
    assert orphan.replicas == {"i-2": "10.0.0.1:8001"}


RECORD = Ownership("a" * 24, 2, "i-1", StreamStatus.ORPHANED, 40, 1.0, 2.0, 9)


@pytest.mark.parametrize(
    ("change", "forward"),
    [
        ({}, False),
        ({"status": StreamStatus.OPEN}, False),
        ({"status": StreamStatus.HANDED_OFF}, True),
        ({"status": StreamStatus.CLOSED}, True),
        ({"number": 3, "status": StreamStatus.OPEN}, True),
        ({"number": 1, "status": StreamStatus.CLOSED}, False),
        ({"owner": "i-2", "status": StreamStatus.OPEN}, True),
        ({"owner": "i-0", "status": StreamStatus.CLOSED}, False),
    ],
    ids=str,
)
def test_an_ownership_moves_by_epoch_and_status(change: dict[str, Any], forward: bool) -> None:
    assert moves_forward(RECORD, replace(RECORD, **change)) is forward


def test_an_open_stream_may_be_renewed() -> None:
    is_open = replace(RECORD, status=StreamStatus.OPEN)
    assert moves_forward(is_open, replace(is_open, expires_at=99))


def test_no_two_ownerships_move_each_other_forward() -> None:
    """Otherwise two writers could replace each other for ever."""
    some = [
        replace(RECORD, number=number, owner=owner, status=status)
        for number, owner, status in itertools.product((1, 2), ("i-1", "i-1+a"), StreamStatus)
    ]
    for one, other in itertools.permutations(some, 2):
        assert moves_forward(one, other) is not moves_forward(other, one)
