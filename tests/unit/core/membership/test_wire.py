"""The wire format: what is written is read, whatever else comes is refused, and nothing outgrows a datagram."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node_agent.contract.states import NodeState
from node_agent.core.membership import wire
from node_agent.core.membership.wire import (
    HEADER_BYTES,
    LOAD_BYTES,
    MAC_BYTES,
    MAX_DATAGRAM,
    MAX_INCARNATION,
    Alive,
    Dead,
    Header,
    Intro,
    Left,
    Loads,
    MessageKind,
    MessageMac,
    Refusal,
    Suspect,
    Update,
    check_status,
    load_of,
    read_header,
    read_loads,
    read_updates,
    write_alive,
    write_dead,
    write_header,
    write_intro,
    write_left,
    write_load,
    write_loads,
    write_refusal,
    write_suspect,
)
from node_agent.core.node.status import CONTINUATION_METHODS, Load, NodeStatus, Pool

LIVES = st.binary(min_size=6, max_size=6)
COUNTS = st.integers(0, 2**32 - 1)
INCARNATIONS = st.integers(0, MAX_INCARNATION)
STATES = st.sampled_from(NodeState)
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
)
LOADS = st.builds(
    Load,
    st.integers(0, 70_000),
    st.integers(0, 70_000),
    st.floats(0, 1),
    st.floats(0, 10),
    st.floats(0, 1e6),
)
PACKED = st.builds(write_load, LIVES, COUNTS, LOADS)
RUMOURS = st.one_of(
    st.builds(Intro, LIVES, STATUSES),
    st.builds(Alive, LIVES, INCARNATIONS, STATES, ABLE),
    st.builds(Suspect, LIVES, INCARNATIONS, STATES, st.frozensets(LIVES, min_size=1, max_size=4), ABLE),
    st.builds(Dead, LIVES, INCARNATIONS, LIVES),
    st.builds(Left, LIVES, INCARNATIONS),
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
        case Loads():
            size = LOAD_BYTES
            return write_loads([update.packed[at : at + size] for at in range(0, len(update.packed), size)])


@given(st.builds(Header, st.sampled_from(MessageKind), LIVES, LIVES, COUNTS, COUNTS), st.lists(RUMOURS, max_size=8))
def test_updates_round_trip(header: Header, updates: list[Update]) -> None:
    content = write_header(header) + b"".join(map(written, updates))
    assert read_header(content) == header
    assert list(read_updates(content, HEADER_BYTES)) == updates


@given(LIVES, COUNTS, LOADS)
def test_a_load_is_read_as_precisely_as_its_format_allows(boot_id: bytes, version: int, load: Load) -> None:
    packed = write_load(boot_id, version, load)
    (read,) = read_loads(packed)
    assert read[:2] == (boot_id, version)
    back = load_of(read)
    assert back.running == min(load.running, 65_535)
    assert back.waiting == min(load.waiting, 65_535)
    assert back.kv_use == pytest.approx(load.kv_use, abs=0.002)
    assert back.time_per_token_s == pytest.approx(min(load.time_per_token_s, 6.5535), abs=5.1e-5)
    assert back.prefill_tokens_s == pytest.approx(min(load.prefill_tokens_s, 655_350.0), abs=5.1)
    assert write_load(boot_id, version, back) == packed  # passed on, it never drifts


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


@pytest.mark.parametrize(
    "content",
    [b"", b"\x01", write_header(Header(MessageKind.PING, b"sender", b"to-you", 1, 1)).replace(b"\x01", b"\x02", 1),
     b"\x01\xff" + bytes(HEADER_BYTES - 2)],
    ids=["nothing", "short", "another version", "an unknown kind"],
)  # fmt: skip
def test_an_invalid_header_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"header|version|Kind"):
        read_header(content)


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


@given(st.integers() | st.floats(), st.integers(), st.floats(), st.floats(), st.floats())
def test_a_load_of_any_figures_is_written(running: int, waiting: int, kv_use: float, pace: float, rate: float) -> None:
    (read,) = read_loads(write_load(b"sixsix", 1, Load(running, waiting, kv_use, pace, rate)))
    load = load_of(read)
    assert load.in_flight >= 0
    assert 0.0 <= load.kv_use <= 1.0


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


@given(st.sampled_from(list(wire._MAX_TEXT_BYTES)))
def test_a_status_with_a_text_that_is_too_long_is_an_error_that_names_it(name: str) -> None:
    fields = dict.fromkeys(("instance_id", "peer", "front", "model", "version"), "x")
    pool = {"zone": "x", "instance_type": "x"}
    (pool if name in pool else fields)[name] = "x" * 200
    fields |= {"peer_address": fields.pop("peer"), "client_address": fields.pop("front")}
    with pytest.raises(ValueError, match=name):
        check_status(replace(LONGEST, pool=Pool(**pool), **fields))  # type: ignore[arg-type] # texts, by their names


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
