"""The keeper's side of a connection: other nodes' journals come in, acknowledgements go out.

The connection comes to the peer door like any other, and says with its first bytes that it is none of HTTP.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable

import orjson
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from node_agent.core.epochs import Epoch, epoch_from_json
from node_agent.core.journal_wire import (
    ACK,
    APPEND,
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
from node_agent.core.signing import Doorkeeper

_log = logging.getLogger(__name__)


class JournalDoor:
    """Makes the protocol of the peer door, and knows the connections that came for journals."""

    def __init__(self, keeper: Keeper, doorkeeper: Doorkeeper, clock: Callable[[], float]) -> None:
        self.keeper = keeper
        self.doorkeeper = doorkeeper
        self.clock = clock
        self.connections: set[JournalConnection] = set()

    def protocol(self) -> type[HttpToolsProtocol]:
        """uvicorn's protocol, which gives a connection away that begins with the journals' preface."""
        door = self

        class PeerProtocol(HttpToolsProtocol):
            _first: bytes | None = b""

            def data_received(self, data: bytes) -> None:
                if self._first is None:
                    super().data_received(data)
                    return
                self._first += data
                if len(self._first) < len(PREFACE) and PREFACE.startswith(self._first):
                    return
                first, self._first = self._first, None
                if not first.startswith(PREFACE):
                    super().data_received(first)
                    return
                self.connections.discard(self)
                journal = JournalConnection(door, self.transport)
                self.transport.set_protocol(journal)
                journal.data_received(first)

        return PeerProtocol

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
            messages = self._opener.feed(data)
            answers = [answer for message in messages if (answer := self._answer(message)) is not None]
        except (BadFrame, ValueError, TypeError, KeyError) as error:
            _log.warning("a journal's connection broke off: %s", error)
            self.abort()
            return
        if answers:
            self._transport.write(self._sealer.seal(b"".join(map(encode, answers))))

    def _greet(self, data: bytes) -> bytes:
        self._held += data
        line, end, rest = self._held.partition(b"\n")
        if not end:
            if len(self._held) > MAX_PREFACE_BYTES:
                self.abort()
            return b""
        stamp = line.removeprefix(PREFACE).decode("latin-1")
        why = self._door.doorkeeper.refusal(stamp, *STAMPED, b"", self._door.clock())
        if why is not None:
            _log.warning("peer door: refused a journal's connection: %s", why)
            self.abort()
            return b""
        nonce = secrets.token_hex(12)
        key = session_key(self._door.doorkeeper.key, stamp.split(" ")[2], nonce)
        self._opener, self._sealer = Opener(key, b"owner"), Sealer(key, b"keeper")
        self._transport.write(PREFACE + nonce.encode() + b"\n")
        self._held = b""
        return rest

    def _answer(self, message: Message) -> Message | None:
        try:
            return self._kept(message)
        except Refused as refused:
            return Message(REFUSED, message.handle, 0, refused.why.encode())

    def _kept(self, message: Message) -> Message | None:
        keeper, now = self._door.keeper, self._door.clock()
        if message.kind == OPEN:
            named, opening, lines = message.body.split(b"\n", 2)
            told = orjson.loads(named)
            stream, epoch = str(told["stream"]), epoch_from_json(told["epoch"])
            self._streams[message.handle] = stream, epoch
            _log.debug("keeps stream %s of %s from event %d on", stream, epoch, message.number)
            return Message(ACK, message.handle, keeper.open(stream, epoch, opening, message.number, lines, now))
        if message.handle not in self._streams:
            raise Refused(UNKNOWN)
        stream, epoch = self._streams[message.handle]
        if message.kind == APPEND:
            lines_now = message.body.splitlines(keepends=True)
            return Message(ACK, message.handle, keeper.append(stream, epoch, message.number, lines_now, now))
        if message.kind in (FINISH, FORGET):
            del self._streams[message.handle]
            _log.debug("stream %s of %s is %s", stream, epoch, "finished" if message.kind == FINISH else "forgotten")
            (keeper.finish if message.kind == FINISH else keeper.forget)(stream, epoch)
        return None
