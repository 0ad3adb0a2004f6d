"""Receive other nodes' journals and acknowledge them: the replica's side of a connection.

The connection arrives at the peer API's port; its first bytes show that it is not HTTP.

Rules kept here:

* an unverified connection lasts HANDSHAKE_TIMEOUT_S and holds MAX_PREFACE_BYTES; there are at most MAX_UNVERIFIED: one
  more, and the oldest of them is aborted;
* a message that cannot be read fails its own stream only; a frame with a wrong signature ends the connection;
* nothing more is read from an owner that does not read its answers.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable

from node_agent.core.common.request_auth import Rejected, RequestVerifier
from node_agent.core.journal.epochs import Epoch
from node_agent.core.replication.protocol import (
    ACK,
    APPEND,
    CLOCK_PREFACE,
    DROP,
    FINISH,
    MAX_PREFACE_BYTES,
    OPEN,
    PREFACE,
    SIGNED_CONTENT,
    BadFrame,
    FrameReader,
    FrameWriter,
    Message,
    check_append,
    derive_connection_key,
    encode,
    encode_refused,
    read_open,
    replica_proof,
)
from node_agent.core.replication.refusal import RefusalReason, ReplicaRefused
from node_agent.core.replication.replica_store import (
    EndReason,
    ReplicaStore,
)
from node_agent.ports import AlternateProtocol

HANDSHAKE_TIMEOUT_S = 5.0
MAX_UNVERIFIED = 64
MAX_STREAMS = 100_000
"""Streams of one connection; an owner has a few thousand at most."""

_CLEANUP_AT = 1_000
"""Streams of a connection at which those whose journals are gone are removed, and again at each doubling."""

_COUNTER_MODULUS = 2**32
_log = logging.getLogger(__name__)


class ReplicationServer:
    """Accepts the replication connections of other nodes, for this node's store. clock: unix seconds."""

    def __init__(self, store: ReplicaStore, verifier: RequestVerifier, clock: Callable[[], float]) -> None:
        self.store = store
        self.verifier = verifier
        self.clock = clock
        self.connections: set[ReplicationConnection] = set()
        self.is_closed = False
        self.unverified: dict[ReplicationConnection, None] = {}  # oldest first

    def alternate_protocol(self) -> AlternateProtocol:
        """Return the protocol for the peer API's server: it handles connections that begin with the preface."""
        return AlternateProtocol(PREFACE, lambda transport: ReplicationConnection(self, transport))

    def close(self) -> None:
        """Abort all connections, and those that arrive later."""
        self.is_closed = True
        for connection in list(self.connections):
            connection.abort()

    def disconnect(self, instance_id: str) -> None:
        """Abort the connections of a node; the journals that it has sent stay, for whoever takes them over."""
        for connection in [each for each in self.connections if each.sender == instance_id]:
            connection.abort()

    def on_connect(self, connection: ReplicationConnection) -> None:
        """Add a connection, unverified; at the bound the oldest unverified one is aborted."""
        if len(self.unverified) >= MAX_UNVERIFIED:
            next(iter(self.unverified)).abort()
        self.connections.add(connection)
        self.unverified[connection] = None

    def on_verified(self, connection: ReplicationConnection) -> None:
        """Mark a connection as a peer's."""
        self.unverified.pop(connection, None)

    def on_disconnect(self, connection: ReplicationConnection) -> None:
        """Remove a connection."""
        self.connections.discard(connection)
        self.unverified.pop(connection, None)


class ReplicationConnection(asyncio.Protocol):
    """A connection of one owner, and its streams. sender: the owner's instance id, "" until it is verified."""

    def __init__(self, server: ReplicationServer, transport: asyncio.Transport) -> None:
        self._server = server
        self._transport = transport
        self.sender = ""
        self._buffer = b""
        self._reader: FrameReader | None = None
        self._writer: FrameWriter | None = None
        self._streams: dict[int, tuple[str, Epoch]] = {}
        self._cleanup_at = _CLEANUP_AT
        self._frames = 0
        self._is_closed = False
        server.on_connect(self)
        self._timer = asyncio.get_running_loop().call_later(HANDSHAKE_TIMEOUT_S, self.abort)
        if server.is_closed:
            self.abort()

    def abort(self) -> None:
        """Close the connection at once; the stored journals stay."""
        self._is_closed = True
        self._timer.cancel()
        self._server.on_disconnect(self)
        self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Mark the owner's streams as orphaned; their journals stay in the store."""
        self._is_closed = True
        self._timer.cancel()
        self._server.on_disconnect(self)
        for stream, epoch in self._streams.values():
            _log.debug("stream %s of %s is an orphan", stream, epoch)
            self._server.store.mark_orphaned(stream, epoch, self._server.clock())
        self._streams.clear()

    def pause_writing(self) -> None:
        """Stop reading: the owner does not read its acks."""
        if not self._is_closed:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        """Continue reading: the owner has read its acks."""
        if not self._is_closed:
            self._transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        """Process the handshake, then frames, and acknowledge these; an invalid one aborts the connection."""
        if self._is_closed:
            return
        if self._reader is None:
            data = self._handshake(data)
        if self._reader is None or self._writer is None:
            return
        try:
            frames = self._reader.feed(data)
        except BadFrame as error:
            _log.warning("a replication connection sent a bad frame: %s", error)
            self.abort()
            return
        if frames:
            answers = [self._handle(message) for messages in frames for message in messages]
            self._frames = (self._frames + len(frames)) % _COUNTER_MODULUS
            self._transport.write(self._writer.frame(b"".join((*answers, encode(ACK, 0, self._frames)))))

    def _handshake(self, data: bytes) -> bytes:
        held = self._buffer + data
        line, end, rest = held.partition(b"\n")
        if len(line) > MAX_PREFACE_BYTES:
            self.abort()
            return b""
        if not end:
            self._buffer = held
            return b""
        signature = line.removeprefix(PREFACE).decode("latin-1")
        verifier, now = self._server.verifier, self._server.clock()
        verified = verifier.verify(signature, SIGNED_CONTENT, now)
        if isinstance(verified, Rejected):
            self._reject(verified)
            return b""
        nonce = secrets.token_hex(12)
        key = derive_connection_key(verified.key.secret, verified.nonce, nonce)
        self.sender = verified.sender
        self._reader, self._writer = FrameReader(key, b"owner"), FrameWriter(key, b"replica")
        self._timer.cancel()
        self._server.on_verified(self)
        self._transport.write(b"%b%b %b\n" % (PREFACE, nonce.encode(), replica_proof(key).encode()))
        self._buffer = b""
        return rest

    def _reject(self, rejected: Rejected) -> None:
        """Close the connection of an owner that is not accepted, with this node's time where that lets it retry."""
        if rejected.clock is not None:
            self._transport.write(CLOCK_PREFACE + rejected.clock.encode() + b"\n")
            self._transport.close()
            return
        _log.warning("peer API: refused a replication connection of %s: %s", rejected.sender, rejected.reason.value)
        self.abort()

    def _handle(self, message: Message) -> bytes:
        """Apply a message. Returns the answer beside the ACK: empty, or a REFUSED with the reason."""
        try:
            self._apply(message)
        except ReplicaRefused as refused:
            if refused.reason is RefusalReason.STALE:
                self._streams.pop(message.handle, None)
            return encode_refused(message.handle, refused.reason)
        except ValueError as error:
            _log.warning("a replication message cannot be read: %s", error)
            return encode_refused(message.handle, RefusalReason.UNREADABLE)
        return b""

    def _apply(self, message: Message) -> None:
        """Apply a message to the store. Raises ReplicaRefused, and ValueError where it cannot be read."""
        kind, handle, number, body = message
        store, now = self._server.store, self._server.clock()
        if kind == OPEN:
            self._open(handle, number, body, now)
            return
        if kind not in (APPEND, FINISH, DROP):
            raise ValueError(f"a message of kind {kind}")
        if handle not in self._streams:
            raise ReplicaRefused(RefusalReason.UNKNOWN)
        stream, epoch = self._streams[handle]
        if kind == APPEND:
            check_append(number, body)
            store.append(stream, epoch, number, body, now)
            return
        del self._streams[handle]
        if kind == DROP:
            store.drop(stream, epoch)
        else:
            store.end(stream, epoch, EndReason(number))

    def _open(self, handle: int, number: int, body: bytes, now: float) -> None:
        journal = read_open(number, body)
        if len(self._streams) >= self._cleanup_at:
            self._remove_stale_streams()
        stream, epoch = journal.stream, journal.epoch
        _log.debug("replicates stream %s of %s from event %d on", stream, epoch, number)
        self._server.store.open(stream, epoch, journal.header, number, journal.lines, now, journal.client)
        self._streams[handle] = stream, epoch

    def _remove_stale_streams(self) -> None:
        """Remove the streams whose journals are gone: the store does not report an expired one."""
        has = self._server.store.has
        self._streams = {handle: kept for handle, kept in self._streams.items() if has(*kept)}
        if len(self._streams) >= MAX_STREAMS:
            raise ReplicaRefused(RefusalReason.FULL)
        self._cleanup_at = max(_CLEANUP_AT, 2 * len(self._streams))
