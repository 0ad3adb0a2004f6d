"""Test updates: what is written is read, whatever else arrives is refused, and nothing outgrows a datagram."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node_agent.contract.states import NodeState
from node_agent.core.membership.wire.loads import LOAD_BYTES, write_load
from node_agent.core.membership.wire.messages import (
    HEADER_BYTES,
    MAC_BYTES,
    MAX_DATAGRAM,
    Header,
    MessageKind,
    read_header,
    write_header,
)
from node_agent.core.membership.wire.statuses import MAX_INCARNATION, MAX_TEXT_BYTES, check_status
from node_agent.core.membership.wire.updates import (
    Alive,
    Dead,
    Intro,
    KeyUsage,
    Left,
    Loads,
    Refusal,
    Suspect,
    Update,
    read_updates,
    write_alive,
    write_dead,
    write_intro,
    write_key_usage_update,
    write_left,
    write_loads,
    write_refusal,
    write_suspect,
)
from node_agent.core.node.status import CONTINUATION_METHODS, NodeStatus, Pool
from tests.unit.core.membership.wire.wire_strategies import COUNTS, LIVES, LOADS

INCARNATIONS = st.integers(0, MAX_INCARNATION)
STATES = st.sampled_from(NodeState)
DEADLINES = st.just(0) | st.integers(0, 2**32 - 1)
ABLE = st.sampled_from([(), CONTINUATION_METHODS[:1], CONTINUATION_METHODS[1:], CONTINUATION_METHODS])


def texts(most: int) -> st.SearchStrategy[str]:
    return st.text(st.characters(exclude_categories=("C", "Z")), max_size=most).filter(
        lambda text: len(text.encode()) <= most and text.isprintable()
    )


ADDRESSES = st.builds(
    "{}:{}".format,
    st.ip_addresses(v=4, network="10.0.0.0/8"),
    st.integers(1, 65_535),
)


STATUSES = st.builds(
    NodeStatus,
    instance_id=st.from_regex(r"i-[0-9a-f]{8,17}", fullmatch=True),
    peer_address=ADDRESSES,
    client_address=ADDRESSES | st.just(""),
    state=STATES,
    pool=st.builds(Pool, texts(32), texts(32)),
    model=texts(128),
    incarnation=INCARNATIONS,
    version=texts(32),
    continuation_methods=ABLE,
    deadline=DEADLINES,
)
PACKED = st.builds(write_load, LIVES, COUNTS, LOADS)
RUMOURS = st.one_of(
    st.builds(Intro, LIVES, STATUSES),
    st.builds(Alive, LIVES, INCARNATIONS, STATES, ABLE, DEADLINES),
    st.builds(Suspect, LIVES, INCARNATIONS, STATES, st.frozensets(LIVES, min_size=1, max_size=4), ABLE),
    st.builds(Dead, LIVES, INCARNATIONS, LIVES),
    st.builds(Left, LIVES, INCARNATIONS),
    st.builds(KeyUsage, LIVES, COUNTS, st.binary(max_size=200)),
    st.builds(Refusal, st.binary(min_size=16, max_size=16), st.integers(0, 0xFFFF)),
    st.builds(lambda packed: Loads(b"".join(packed)), st.lists(PACKED, max_size=12)),
)


def written(update: Update) -> bytes:
    match update:
        case Intro():
            return write_intro(*update)
        case Alive():
            return write_alive(*update)
        case Suspect():
            return write_suspect(*update)
        case Dead():
            return write_dead(*update)
        case Left():
            return write_left(*update)
        case Refusal():
            return write_refusal(*update)
        case KeyUsage():
            return write_key_usage_update(*update)
        case Loads():
            size = LOAD_BYTES
            return write_loads([update.packed[at : at + size] for at in range(0, len(update.packed), size)])


@given(st.builds(Header, st.sampled_from(MessageKind), LIVES, LIVES, COUNTS, COUNTS), st.lists(RUMOURS, max_size=8))
def test_updates_round_trip(header: Header, updates: list[Update]) -> None:
    content = write_header(header) + b"".join(map(written, updates))
    assert read_header(content) == header
    assert list(read_updates(content, HEADER_BYTES)) == updates


@given(st.binary(max_size=200))
def test_random_bytes_are_refused_with_a_value_error_only(content: bytes) -> None:
    try:
        header = read_header(content)
    except ValueError:
        pass
    else:
        assert write_header(header) == content[:HEADER_BYTES]
    try:
        updates = list(read_updates(content, 0))
    except ValueError:
        return
    for update in updates:  # what is accepted is written and read again as the same
        assert list(read_updates(written(update), 0)) == [update]


@given(RUMOURS, st.integers(0, 100), st.binary(min_size=1, max_size=4))
def test_an_update_with_changed_bytes_is_refused_or_read_as_another(update: Update, at: int, changed: bytes) -> None:
    content = bytearray(written(update))
    at %= len(content)
    content[at : at + len(changed)] = changed[: len(content) - at]
    try:
        updates = list(read_updates(bytes(content), 0))
    except ValueError:
        return
    for read in updates:
        assert list(read_updates(written(read), 0)) == [read]


@given(RUMOURS, st.integers(0, 300))
def test_an_update_that_was_cut_off_is_refused(update: Update, at: int) -> None:
    whole = written(update)
    cut = whole[: at % len(whole)]
    if cut:
        with pytest.raises(ValueError, match="update"):
            list(read_updates(cut, 0))


def test_updates_of_a_newer_version_are_skipped_and_longer_ones_read_in_part() -> None:
    left = Left(b"sixsix", 7)
    unknown = b"\xc8\x00\x03abc"
    raw = write_left(*left)
    longer = raw[:1] + (len(raw) - 3 + 2).to_bytes(2, "big") + raw[3:] + b"!!"
    assert list(read_updates(unknown + longer + raw, 0)) == [left, left]


def test_a_deadline_is_at_an_updates_end_where_older_nodes_do_not_look() -> None:
    without = write_alive(b"sixsix", 7, NodeState.DRAINING)
    (alive,) = read_updates(write_alive(b"sixsix", 7, NodeState.DRAINING, (), 1_800_000_000), 0)
    assert alive == Alive(b"sixsix", 7, NodeState.DRAINING, (), 1_800_000_000)
    assert write_alive(b"sixsix", 7, NodeState.DRAINING, (), 1_800_000_000)[3:-4] == without[3:]
    assert write_alive(b"sixsix", 7, NodeState.DRAINING, (), 2**40)[-4:] == b"\xff" * 4
    status = replace(PEER, deadline=1_800_000_000)
    assert write_intro(b"sixsix", status)[3:-4] == write_intro(b"sixsix", PEER)[3:]


@pytest.mark.parametrize(
    ("update", "why"),
    [
        (b"\x03\x00\x0f" + bytes(15), "suspectors"),
        (b"\x06\x00\x05" + bytes(5), "half a load"),
        (b"\x02\x00\x0e" + bytes(14), "update 2"),
        (b"\x01\x00\x14" + bytes(15) + b"\xff1234", "longer than its introduction"),
    ],
)
def test_an_inconsistent_update_is_refused(update: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        list(read_updates(update, 0))


LEFT = Left(b"sixsix", 7)
PEER = NodeStatus("i-1", "10.0.0.1:8001", "10.0.0.1:8000", NodeState.READY, Pool("z", "t"), "m", 1)
ODD = {
    "no port": replace(PEER, peer_address="10.71.3.7"),
    "a name": replace(PEER, peer_address="node-7.internal:8001"),
    "IPv6": replace(PEER, peer_address="[::1]:8001"),
    "a port of five": replace(PEER, peer_address="10.71.3.7:70000"),
    "port 0": replace(PEER, peer_address="10.71.3.7:0"),
    "other digits": replace(PEER, peer_address="10.71.3.7:\u0668\u0660"),
    "nobody's": replace(PEER, peer_address="0.0.0.0:8001"),
    "everybody's": replace(PEER, peer_address="255.255.255.255:8001"),
    "the metadata service": replace(PEER, peer_address="169.254.169.254:80"),
    "an odd front": replace(PEER, client_address="http://evil/"),
    "a line break": replace(PEER, instance_id="i-1\r\nx: y"),
    "no id": replace(PEER, instance_id=""),
    "a bell": replace(PEER, model="m\a"),
    "2**63": replace(PEER, incarnation=2**63),
    "2**64 - 1": replace(PEER, incarnation=2**64 - 1),
}


@pytest.mark.parametrize("status", ODD.values(), ids=list(ODD))
def test_an_unusable_introduction_is_left_out_and_the_rest_of_its_message_counts(
    status: NodeStatus,
) -> None:
    assert list(read_updates(write_intro(b"sixsix", status) + write_left(*LEFT), 0)) == [LEFT]


@pytest.mark.parametrize(
    "update",
    [
        write_alive(b"sixsix", 2**63, NodeState.READY),
        write_suspect(b"sixsix", 2**63, NodeState.READY, frozenset((b"aaaaaa",))),
        write_dead(b"sixsix", 2**64 - 1, b"aaaaaa"),
        write_left(b"sixsix", MAX_INCARNATION + 1),
        write_alive(b"sixsix", 1, NodeState.READY)[:-1] + b"\x09",
        write_intro(b"sixsix", PEER).replace(b"10.0.0.1:8001", b"10.0.0.1:800\xff"),
    ],
    ids=["alive", "suspect", "dead", "left", "a state to come", "no UTF-8"],
)
def test_an_impossible_update_is_left_out(update: bytes) -> None:
    assert list(read_updates(update + write_left(*LEFT), 0)) == [LEFT]


LONGEST = NodeStatus(
    "i" * 64, "100.100.100.100:65535", "100.100.100.100:65535", NodeState.READY, Pool("z" * 32, "t" * 32), "m" * 128, 1,
    "v" * 32,
)  # fmt: skip


@given(st.sampled_from(list(NodeState)), st.sets(st.sampled_from(CONTINUATION_METHODS)))
def test_short_updates_carry_all_that_changes_in_an_incarnation(state: NodeState, ways: set[str]) -> None:
    able = tuple(way for way in CONTINUATION_METHODS if way in ways)
    written = write_intro(b"sixsix", replace(LONGEST, state=state, continuation_methods=able))
    written += write_alive(b"sixsix", 1, state, (*able, "of a version to come"))
    written += write_suspect(b"sixsix", 1, state, frozenset((b"aaaaaa",)), able)
    intro, alive, suspect = read_updates(written, 0)
    assert isinstance(intro, Intro)
    assert isinstance(alive, Alive)
    assert isinstance(suspect, Suspect)
    assert (
        (intro.status.state, intro.status.continuation_methods)
        == (alive.state, alive.continuation_methods)
        == (suspect.state, suspect.continuation_methods)
    )
    assert (alive.state, alive.continuation_methods) == (state, able)


def test_the_longest_introduction_and_an_accusation_fit_into_a_datagram() -> None:
    check_status(LONGEST)
    accusation = write_suspect(b"sixsix", 1, NodeState.READY, frozenset((b"aaaaaa", b"bbbbbb", b"cccccc", b"dddddd")))
    assert HEADER_BYTES + len(write_intro(b"sixsix", LONGEST)) + len(accusation) + MAC_BYTES <= MAX_DATAGRAM


@given(st.sampled_from(list(MAX_TEXT_BYTES)))
def test_a_status_with_a_text_that_is_too_long_is_named(name: str) -> None:
    fields = dict.fromkeys(("instance_id", "peer", "front", "model", "version"), "x")
    pool = {"zone": "x", "instance_type": "x"}
    (pool if name in pool else fields)[name] = "x" * 200
    fields |= {"peer_address": fields.pop("peer"), "client_address": fields.pop("front")}
    with pytest.raises(ValueError, match=name):
        check_status(replace(LONGEST, pool=Pool(**pool), **fields))  # type: ignore[arg-type] # texts, by their names
