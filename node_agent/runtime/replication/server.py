"""The keeper's side of a connection: other nodes' journals come in, acknowledgements go out.

The connection comes to the peer door like any other, and says with its first bytes that it is none of HTTP.

Rules kept here:

* who has not proved to be a peer is listened to for GREET_WITHIN_S, holds MAX_PREFACE_BYTES and is one of
  MAX_STRANGERS: one more, and the oldest of them goes;
* a message that cannot be read costs its own stream alone, a frame that is not this owner's the connection;
* an owner that does not read its answers is not listened to any further.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable

from node_agent.core.common.request_auth import CLOCK_ERRORS, RequestVerifier, nonce_of
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
    REFUSED,
    SIGNED_TARGET,
    BadFrame,
    FrameReader,
    FrameWriter,
    Message,
    check_append,
    derive_connection_key,
    encode,
    read_open,
)
from node_agent.core.replication.replica_store import (
    FULL,
    STALE,
    UNKNOWN,
    UNREADABLE,
    EndReason,
    ReplicaRefused,
    ReplicaStore,
)
from node_agent.ports import AlternateProtocol

HANDSHAKE_TIMEOUT_S = 5.0
MAX_UNVERIFIED = 64
MAX_STREAMS = 100_000
"""Of one connection; an owner has a few thousand streams at most."""

_CLEANUP_AT = 1_000
"""Streams of a connection from which on those whose journals are gone are looked for, and again at each doubling."""

_COUNTER_MODULUS = 2**32
_log = logging.getLogger(__name__)


class ReplicationServer:
    """What comes to the peer door for this node's keeper, and the connections that it comes on."""

    def __init__(self, keeper: ReplicaStore, doorkeeper: RequestVerifier, clock: Callable[[], float]) -> None:
        self.store = keeper
        self.verifier = doorkeeper
        self.clock = clock
        self.connections: set[ReplicationConnection] = set()
        self.is_closed = False
        self.unverified: dict[ReplicationConnection, None] = {}  # those that have not proved to be peers, oldest first

    def alternate_protocol(self) -> AlternateProtocol:
        """For the peer door's server: connections that begin with the journals' preface are these."""
        return AlternateProtocol(PREFACE, lambda transport: ReplicationConnection(self, transport))

    def close(self) -> None:
        """End all connections, and those that still come."""
        self.is_closed = True
        for connection in list(self.connections):
            connection.abort()

    def on_connect(self, connection: ReplicationConnection) -> None:
        """A connection whose owner is not known yet."""
        if len(self.unverified) >= MAX_UNVERIFIED:
            next(iter(self.unverified)).abort()
        self.connections.add(connection)
        self.unverified[connection] = None

    def on_verified(self, connection: ReplicationConnection) -> None:
        """It is a peer's."""
        self.unverified.pop(connection, None)

    def on_disconnect(self, connection: ReplicationConnection) -> None:
        self.connections.discard(connection)
        self.unverified.pop(connection, None)


class ReplicationConnection(asyncio.Protocol):
    """One owner's streams."""

    def __init__(self, door: ReplicationServer, transport: asyncio.Transport) -> None:
        self._server = door
        self._transport = transport
        self._buffer = b""
        self._reader: FrameReader | None = None
        self._writer: FrameWriter | None = None
        self._streams: dict[int, tuple[str, Epoch]] = {}
        self._cleanup_at = _CLEANUP_AT
        self._frames = 0
        self._is_closed = False
        door.on_connect(self)
        self._timer = asyncio.get_running_loop().call_later(HANDSHAKE_TIMEOUT_S, self.abort)
        if door.is_closed:
            self.abort()

    def abort(self) -> None:
        """Nothing more is taken; what was kept stays."""
        self._is_closed = True
        self._timer.cancel()
        self._server.on_disconnect(self)
        self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_closed = True
        self._timer.cancel()
        self._server.on_disconnect(self)
        for stream, epoch in self._streams.values():
            _log.debug("stream %s of %s is an orphan", stream, epoch)
            self._server.store.mark_orphaned(stream, epoch, self._server.clock())
        self._streams.clear()

    def pause_writing(self) -> None:
        if not self._is_closed:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        if not self._is_closed:
            self._transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        if self._is_closed:
            return
        if self._reader is None:
            data = self._handshake(data)
        if self._reader is None or self._writer is None:
            return
        try:
            frames = self._reader.feed(data)
        except BadFrame as error:
            _log.warning("a journal's connection broke off: %s", error)
            self.abort()
            return
        if frames:
            said = [self._handle(message) for messages in frames for message in messages]
            self._frames = (self._frames + len(frames)) % _COUNTER_MODULUS
            self._transport.write(self._writer.frame(b"".join((*said, encode(ACK, 0, self._frames)))))

    def _handshake(self, data: bytes) -> bytes:
        held = self._buffer + data
        line, end, rest = held.partition(b"\n")
        if len(line) > MAX_PREFACE_BYTES:
            self.abort()
            return b""
        if not end:
            self._buffer = held
            return b""
        stamp = line.removeprefix(PREFACE).decode("latin-1")
        doorkeeper, now = self._server.verifier, self._server.clock()
        why = doorkeeper.rejection_reason(stamp, *SIGNED_TARGET, b"", now)
        if why in CLOCK_ERRORS:
            self._transport.write(CLOCK_PREFACE + doorkeeper.signed_clock(stamp, now).encode() + b"\n")
            self._transport.close()
            return b""
        if why is not None:
            _log.warning("peer door: refused a journal's connection: %s", why)
            self.abort()
            return b""
        nonce = secrets.token_hex(12)
        key = derive_connection_key(self._server.verifier.key, nonce_of(stamp), nonce)
        self._reader, self._writer = FrameReader(key, b"owner"), FrameWriter(key, b"keeper")
        self._timer.cancel()
        self._server.on_verified(self)
        self._transport.write(PREFACE + nonce.encode() + b"\n")
        self._buffer = b""
        return rest

    def _handle(self, message: Message) -> bytes:
        """What the owner has to hear of it beside that it came: nothing, or why it was not taken."""
        try:
            self._apply(message)
        except ReplicaRefused as refused:
            if refused.reason == STALE:
                self._streams.pop(message.handle, None)
            return encode(REFUSED, message.handle, 0, refused.reason.encode())
        except ValueError as error:
            _log.warning("a message of a journal's connection cannot be read: %s", error)
            return encode(REFUSED, message.handle, 0, UNREADABLE.encode())
        return b""

    def _apply(self, message: Message) -> None:
        """Raises Refused, and ValueError where it cannot be read."""
        kind, handle, number, body = message
        keeper, now = self._server.store, self._server.clock()
        if kind == OPEN:
            self._open(handle, number, body, now)
            return
        if kind not in (APPEND, FINISH, DROP):
            raise ValueError(f"a message of kind {kind}")
        if handle not in self._streams:
            raise ReplicaRefused(UNKNOWN)
        stream, epoch = self._streams[handle]
        if kind == APPEND:
            check_append(number, body)
            keeper.append(stream, epoch, number, body, now)
            return
        del self._streams[handle]
        if kind == DROP:
            keeper.drop(stream, epoch)
        else:
            keeper.end(stream, epoch, EndReason(number))

    def _open(self, handle: int, number: int, body: bytes, now: float) -> None:
        opened = read_open(number, body)
        if len(self._streams) >= self._cleanup_at:
            self._remove_stale_streams()
        stream, epoch = opened.stream, opened.epoch
        _log.debug("keeps stream %s of %s from event %d on", stream, epoch, number)
        self._server.store.open(stream, epoch, opened.header, number, opened.lines, now, opened.client)
        self._streams[handle] = stream, epoch

    def _remove_stale_streams(self) -> None:
        """Forget the streams whose journals are gone: nobody says so of one that expired."""
        holds = self._server.store.has
        self._streams = {handle: kept for handle, kept in self._streams.items() if holds(*kept)}
        if len(self._streams) >= MAX_STREAMS:
            raise ReplicaRefused(FULL)
        self._cleanup_at = max(_CLEANUP_AT, 2 * len(self._streams))
