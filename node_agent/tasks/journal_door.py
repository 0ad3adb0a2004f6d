"""The keeper's side of a connection: other nodes' journals come in, acknowledgements go out.

The connection comes to the peer door like any other, and says with its first bytes that it is none of HTTP.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable

import orjson

from node_agent.core.epochs import Epoch, epoch_from_json
from node_agent.core.journal_wire import (
    ACK,
    APPEND,
    CLOCK_PREFACE,
    FINISH,
    FORGET,
    MAX_PREFACE_BYTES,
    OPEN,
    PREFACE,
    REFUSED,
    STAMPED,
    BadFrame,
    Message,
    Opener,
    Sealer,
    encode,
    session_key,
)
from node_agent.core.keeper import UNKNOWN, Keeper, Refused
from node_agent.core.signing import CLOCK_HELPS, Doorkeeper, nonce_of
from node_agent.ports import Other

_COUNTED = 2**32
_log = logging.getLogger(__name__)


class JournalDoor:
    """What comes to the peer door for this node's keeper, and the connections that it comes on."""

    def __init__(self, keeper: Keeper, doorkeeper: Doorkeeper, clock: Callable[[], float]) -> None:
        self.keeper = keeper
        self.doorkeeper = doorkeeper
        self.clock = clock
        self.connections: set[JournalConnection] = set()

    def other(self) -> Other:
        """For the peer door's server: connections that begin with the journals' preface are these."""
        return Other(PREFACE, lambda transport: JournalConnection(self, transport))

    def close(self) -> None:
        for connection in list(self.connections):
            connection.abort()


class JournalConnection(asyncio.Protocol):
    """One owner's streams."""

    def __init__(self, door: JournalDoor, transport: asyncio.Transport) -> None:
        self._door = door
        self._transport = transport
        self._held = b""
        self._opener: Opener | None = None
        self._sealer: Sealer | None = None
        self._streams: dict[int, tuple[str, Epoch]] = {}
        self._frames = 0
        door.connections.add(self)

    def abort(self) -> None:
        self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._door.connections.discard(self)
        for stream, epoch in self._streams.values():
            _log.debug("stream %s of %s is an orphan", stream, epoch)
            self._door.keeper.orphaned(stream, epoch, self._door.clock())

    def data_received(self, data: bytes) -> None:
        if self._opener is None:
            data = self._greet(data)
        if self._opener is None or self._sealer is None:
            return
        try:
            frames = self._opener.feed(data)
            said = [self._answer(message) for messages in frames for message in messages]
        except (BadFrame, ValueError, TypeError, KeyError) as error:
            _log.warning("a journal's connection broke off: %s", error)
            self.abort()
            return
        if frames:
            self._frames = (self._frames + len(frames)) % _COUNTED
            self._transport.write(self._sealer.seal(b"".join((*said, encode(ACK, 0, self._frames)))))

    def _greet(self, data: bytes) -> bytes:
        self._held += data
        line, end, rest = self._held.partition(b"\n")
        if not end:
            if len(self._held) > MAX_PREFACE_BYTES:
                self.abort()
            return b""
        stamp = line.removeprefix(PREFACE).decode("latin-1")
        doorkeeper, now = self._door.doorkeeper, self._door.clock()
        why = doorkeeper.refusal(stamp, *STAMPED, b"", now)
        if why in CLOCK_HELPS:
            self._transport.write(CLOCK_PREFACE + doorkeeper.clock(stamp, now).encode() + b"\n")
            self._transport.close()
            return b""
        if why is not None:
            _log.warning("peer door: refused a journal's connection: %s", why)
            self.abort()
            return b""
        nonce = secrets.token_hex(12)
        key = session_key(self._door.doorkeeper.key, nonce_of(stamp), nonce)
        self._opener, self._sealer = Opener(key, b"owner"), Sealer(key, b"keeper")
        self._transport.write(PREFACE + nonce.encode() + b"\n")
        self._held = b""
        return rest

    def _answer(self, message: Message) -> bytes:
        """What the owner has to hear of it beside that it came: nothing, or why it was not taken."""
        try:
            self._keep(message)
        except Refused as refused:
            return encode(REFUSED, message.handle, 0, refused.why.encode())
        return b""

    def _keep(self, message: Message) -> None:
        kind, handle, number, body = message
        keeper, now = self._door.keeper, self._door.clock()
        if kind == OPEN:
            self._open(handle, number, body, now)
            return
        if handle not in self._streams:
            raise Refused(UNKNOWN)
        stream, epoch = self._streams[handle]
        if kind == APPEND:
            keeper.append(stream, epoch, number, body, now)
        elif kind in (FINISH, FORGET):
            del self._streams[handle]
            _log.debug("stream %s of %s is %s", stream, epoch, "finished" if kind == FINISH else "forgotten")
            (keeper.finish if kind == FINISH else keeper.forget)(stream, epoch)

    def _open(self, handle: int, number: int, body: bytes, now: float) -> None:
        named, opening, lines = body.split(b"\n", 2)
        told = orjson.loads(named)
        stream, epoch = str(told["stream"]), epoch_from_json(told["epoch"])
        self._streams[handle] = stream, epoch
        _log.debug("keeps stream %s of %s from event %d on", stream, epoch, number)
        self._door.keeper.open(stream, epoch, opening, number, lines, now)
