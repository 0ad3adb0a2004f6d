"""The journals' protocol under rubbish: nothing is raised, nothing is held without bound, and who keeps to it is kept.

Both ends are driven as their transports would, without any network.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
from hypothesis import given
from hypothesis import strategies as st

from node_agent.adapters.replication_client import Handshake, TcpReplicaLink, TcpReplicaLinks
from node_agent.core.common.address import Address
from node_agent.core.common.cluster_keys import cluster_key
from node_agent.core.common.request_auth import RequestVerifier
from node_agent.core.node.peer_clocks import PeerClocks
from node_agent.core.node.request_signer import PeerName, RequestSigner
from node_agent.core.replication.ack_batches import AckBatches
from node_agent.core.replication.link_loss import LinkLossReason
from node_agent.core.replication.protocol import (
    ACK,
    APPEND,
    DROP,
    FINISH,
    MAX_FRAME_BYTES,
    MAX_PREFACE_BYTES,
    OPEN,
    PREFACE,
    REFUSED,
    FrameReader,
    FrameWriter,
    derive_connection_key,
    encode,
    replica_proof,
)
from node_agent.core.replication.refusal import RefusalReason
from node_agent.core.replication.replica_store import ReplicaStore
from node_agent.runtime.replication.server import ReplicationConnection, ReplicationServer

KEY = cluster_key(b"cluster key")
NOW = 1000.0
ADDRESS = Address("127.0.0.1", 1)
LINKS = TcpReplicaLinks(
    RequestSigner("i-owner", lambda _: KEY, lambda _: PeerName("i-replica", "d1"), PeerClocks()), lambda: NOW, lag_s=1.0
)
ROOM = 64 * 1024
UINT32 = st.integers(0, 2**32 - 1)
CUTS = st.lists(st.integers(1, 400), max_size=20)


class Wire(asyncio.Transport):
    """The transport of one end of a connection; records its writes, and whether it was aborted."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.is_aborted = False

    def write(self, data: Any) -> None:
        self.written += bytes(data)

    def abort(self) -> None:
        self.is_aborted = True

    def pause_reading(self) -> None:
        """Nothing comes but what a test sends."""

    def resume_reading(self) -> None:
        """As above."""


def pieces(data: bytes, cuts: Sequence[int]) -> list[bytes]:
    """The bytes in pieces of these sizes; what is left in one."""
    found, at = [], 0
    for cut in cuts:
        found.append(data[at : at + cut])
        at += cut
    return [piece for piece in (*found, data[at:]) if piece]


def in_a_loop(scenario: Callable[[], None]) -> None:
    async def run() -> None:
        scenario()

    asyncio.run(run())


# the replica's side


def connection() -> tuple[ReplicationConnection, Wire, ReplicaStore]:
    store, wire = ReplicaStore(max_bytes=ROOM), Wire()
    return (
        ReplicationConnection(
            ReplicationServer(store, RequestVerifier("i-replica", "d1", lambda *_: KEY), lambda: NOW), wire
        ),
        wire,
        store,
    )


def greeted() -> tuple[ReplicationConnection, Wire, ReplicaStore, FrameWriter, FrameReader]:
    """A connection of a peer, and the peer's reader and writer."""
    at_replica, wire, store = connection()
    greeting = LINKS.handshake(ADDRESS)
    assert greeting is not None
    at_replica.data_received(PREFACE + greeting.signed.header.encode() + b"\n")
    line, _, rest = wire.written.partition(b"\n")
    assert not rest
    nonce, _, proof = line.removeprefix(PREFACE).decode().partition(" ")
    key = derive_connection_key(KEY.secret, greeting.signed.nonce, nonce)
    assert proof == replica_proof(key)
    wire.written = b""
    return at_replica, wire, store, FrameWriter(key, b"owner"), FrameReader(key, b"replica")


@given(st.one_of(st.binary(max_size=2_000), st.binary(max_size=600).map(lambda rest: PREFACE + rest)), CUTS)
def test_a_stranger_gets_nothing_and_holds_nothing(data: bytes, cuts: list[int]) -> None:
    def scenario() -> None:
        at_replica, wire, store = connection()
        for piece in pieces(data, cuts):
            at_replica.data_received(piece)
            assert len(at_replica._buffer) <= MAX_PREFACE_BYTES + 400
        assert wire.written == b""
        assert len(store) == 0
        if b"\n" in data or len(data) > MAX_PREFACE_BYTES:
            assert wire.is_aborted
            assert not at_replica._server.connections
        at_replica.connection_lost(None)
        assert not at_replica._server.connections
        assert not at_replica._server.unverified

    in_a_loop(scenario)


def opening(stream: Any, epoch: Any, lines: bytes) -> bytes:
    return orjson.dumps({"stream": stream, "epoch": epoch}) + b"\nopening\n" + lines


ODD = st.one_of(st.none(), st.booleans(), st.integers(-(2**60), 2**60), st.floats(), st.text(max_size=8))
EPOCHS = st.one_of(
    st.tuples(st.integers(0, 4), st.sampled_from(["i-a", "i-b"])).map(list), st.lists(ODD, max_size=3), ODD
)
LINES = st.one_of(st.integers(0, 5).map(lambda count: b"x\n" * count), st.binary(max_size=20))
BODIES = st.one_of(
    st.binary(max_size=60), LINES, st.builds(opening, st.one_of(st.sampled_from(["a", "b"]), ODD), EPOCHS, LINES)
)
MESSAGES = st.builds(
    encode,
    st.one_of(st.sampled_from([OPEN, APPEND, FINISH, DROP, ACK, REFUSED]), st.integers(0, 255)),
    st.one_of(st.integers(1, 4), UINT32),
    st.one_of(st.integers(0, 6), UINT32),
    BODIES,
)


@given(st.lists(st.lists(MESSAGES, max_size=5), max_size=12), CUTS)
def test_messages_of_a_hostile_peer_cost_only_the_streams_that_they_name(
    frames: list[list[bytes]], cuts: list[int]
) -> None:
    def scenario() -> None:
        at_replica, wire, store, sealer, opener = greeted()
        good = opening("good", [1, "i-good"], b"")
        at_replica.data_received(sealer.frame(encode(OPEN, 77, 0, good)))
        for number, messages in enumerate(frames, start=1):
            line = encode(APPEND, 77, number, b"%d\n" % number)
            others = [each for each in messages if each[1:5] != line[1:5]]
            for piece in pieces(sealer.frame(b"".join((*others, line))), cuts):
                at_replica.data_received(piece)
            assert store.held_bytes <= ROOM
        assert not wire.is_aborted
        answers = opener.feed(wire.written)
        assert [answer[-1][:3] for answer in answers] == [(ACK, 0, count) for count in range(1, len(frames) + 2)]
        taken = store.take_over("good", "i-b", NOW)
        assert taken is not None
        assert taken.lines == b"".join(b"%d\n" % number for number in range(1, len(frames) + 1))
        at_replica.connection_lost(None)

    in_a_loop(scenario)


@given(st.binary(max_size=300), st.integers(0, 100), CUTS)
def test_a_frame_with_a_wrong_signature_ends_only_its_connection(rubbish: bytes, flipped: int, cuts: list[int]) -> None:
    def scenario() -> None:
        at_replica, wire, store, sealer, _ = greeted()
        at_replica.data_received(sealer.frame(encode(OPEN, 1, 0, opening("a", [1, "i-a"], b""))))
        frame = bytearray(sealer.frame(encode(APPEND, 1, 1, b"x\n")) + rubbish)
        frame[4 + flipped % 30] ^= 1  # its signature, or what it is of
        for piece in pieces(bytes(frame), cuts):
            at_replica.data_received(piece)
        assert wire.is_aborted
        assert len(at_replica._reader._buffer if at_replica._reader else b"") <= MAX_FRAME_BYTES
        at_replica.connection_lost(None)
        taken = store.take_over("a", "i-b", NOW)
        assert taken is not None
        assert taken.seq == 0, "its lines before are kept, those of the frame are not"

    in_a_loop(scenario)


# the owner's side


@dataclass
class Owner:
    """A LinkListener. losses: the reasons of each reported loss of the link."""

    refusals: list[tuple[int, RefusalReason]] = field(default_factory=list)
    receipts: list[object] = field(default_factory=list)
    losses: list[LinkLossReason] = field(default_factory=list)

    def acknowledged(self, receipts: Sequence[object]) -> None:
        self.receipts += receipts

    def overdue(self, receipts: Sequence[object]) -> None:
        """Ignore it: no stream waits here."""

    def refused(self, handle: int, reason: RefusalReason) -> None:
        self.refusals.append((handle, reason))

    def lost(self, reason: LinkLossReason) -> None:
        self.losses.append(reason)


def linked(owner: Owner) -> tuple[TcpReplicaLink, Wire, Handshake]:
    """A link whose connection was just made."""
    wire = Wire()
    link = TcpReplicaLink(ADDRESS, None, LINKS, AckBatches(1.0), owner)
    greeting = link._handshake
    assert greeting is not None
    link._connecting.cancel()
    link.connection_made(wire)
    return link, wire, greeting


@given(st.binary(max_size=1_500), CUTS)
def test_a_replica_without_a_valid_handshake_is_lost_once(data: bytes, cuts: list[int]) -> None:
    def scenario() -> None:
        owner = Owner()
        link, wire, _ = linked(owner)
        for piece in pieces(data, cuts):
            link.data_received(piece)
            assert len(link._received) <= MAX_PREFACE_BYTES + 400
        link.connection_lost(None)
        assert len(owner.losses) == 1
        assert wire.is_aborted
        assert not owner.receipts
        assert not owner.refusals

    in_a_loop(scenario)


@given(st.lists(st.lists(MESSAGES, max_size=5), max_size=8), st.binary(max_size=100), CUTS)
def test_no_answer_of_a_replica_acknowledges_an_event_that_was_not_sent(
    frames: list[list[bytes]], rubbish: bytes, cuts: list[int]
) -> None:
    def scenario() -> None:
        owner = Owner()
        link, _, greeting = linked(owner)
        key = derive_connection_key(KEY.secret, greeting.signed.nonce, "nonce")
        link.data_received(PREFACE + b"nonce " + replica_proof(key).encode() + b"\n")
        sealer = FrameWriter(key, b"replica")
        link.send(encode(APPEND, 1, 1, b"x\n"), "receipt")
        link._flush()
        sealed = b"".join(sealer.frame(b"".join(messages)) for messages in frames)
        with contextlib.suppress(asyncio.CancelledError):
            for piece in pieces(sealed + rubbish, cuts):
                link.data_received(piece)
        assert owner.receipts in ([], ["receipt"])
        link.connection_lost(None)
        assert len(owner.losses) == 1
        link.close()

    in_a_loop(scenario)
