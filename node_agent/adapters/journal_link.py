"""Connections to keepers: messages of many streams, those of one moment in one frame.

A link holds what is sent while it connects, and no more than MAX_HELD_BYTES of what the other side does not take:
a keeper that far behind is lost, and its streams go to another one.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from node_agent.core.addresses import Address
from node_agent.core.journal_wire import (
    ACK,
    MAX_PREFACE_BYTES,
    PREFACE,
    REFUSED,
    STAMPED,
    BadFrame,
    Message,
    Opener,
    Sealer,
    frames_of,
    session_key,
)
from node_agent.core.signing import sign
from node_agent.ports import LinkOwner

CONNECT_TIMEOUT_S = 2.0
MAX_HELD_BYTES = 32 * 1024 * 1024
_FRAME_BYTES = 1024 * 1024
_COUNTED = 2**32


class TcpJournalLinks:
    """The JournalLinks port. key: the cluster's; clock: unix seconds; source: as HttpClient's."""

    def __init__(self, key: bytes, clock: Callable[[], float], source: str | None = None) -> None:
        self._source = (source, 0) if source else None
        self._key = key
        self._clock = clock

    def connect(self, address: Address, owner: LinkOwner) -> TcpLink:
        return TcpLink(address, self._source, self._key, self._clock(), owner)


class TcpLink(asyncio.Protocol):
    """The JournalLink port; it connects by itself."""

    def __init__(
        self, address: Address, source: tuple[str, int] | None, key: bytes, at: float, owner: LinkOwner
    ) -> None:
        self._key = key
        self._nonce = secrets.token_hex(12)
        self._stamp = sign(key, *STAMPED, b"", at, self._nonce)
        self._owner: LinkOwner | None = owner
        self._outbox: list[bytes] = []
        self._receipts: list[object] = []
        self._unacknowledged: deque[list[object]] = deque()  # receipts of each frame
        self._acknowledged = 0  # frames
        self._flushing = False
        self._greeting = b""
        self._transport: asyncio.Transport | None = None
        self._sealer: Sealer | None = None
        self._opener: Opener | None = None
        self._loop = asyncio.get_running_loop()
        self._connecting = self._loop.create_task(self._connect(address, source))

    async def _connect(self, address: Address, source: tuple[str, int] | None) -> None:
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await self._loop.create_connection(lambda: self, address.host, address.port, local_addr=source)
        except ConnectionRefusedError:
            self._lose("refused")
        except (TimeoutError, OSError):
            self._lose("unreachable")

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment] # create_connection gives a Transport
        if self._owner is None:
            self.close()
            return
        self._transport.write(PREFACE + self._stamp.encode() + b"\n")  # type: ignore[union-attr] # it was just set

    def data_received(self, data: bytes) -> None:
        if self._opener is None:
            data = self._greeted(data)
        if self._opener is None:
            return
        try:
            for messages in self._opener.feed(data):
                self._hear(messages)
        except BadFrame:
            self._lose("broken")

    def _hear(self, messages: Iterable[Message]) -> None:
        for kind, handle, number, body in messages:
            if self._owner is None:
                return
            if kind == ACK:
                self._owner.acknowledged(self._receipts_of(number))
            elif kind == REFUSED:
                self._owner.refused(handle, body.decode("ascii", "replace"))

    def _receipts_of(self, frames: int) -> list[Any]:
        """Those of all frames up to this number that were not acknowledged before. Raises BadFrame."""
        count = (frames - self._acknowledged) % _COUNTED
        if count > len(self._unacknowledged):
            raise BadFrame("an acknowledgement of what was never sent")
        self._acknowledged = frames
        receipts: list[Any] = []
        for _ in range(count):
            receipts += self._unacknowledged.popleft()
        return receipts

    def _greeted(self, data: bytes) -> bytes:
        """The keeper's first line has come: what is behind it."""
        self._greeting += data
        line, end, rest = self._greeting.partition(b"\n")
        if not end:
            if len(self._greeting) > MAX_PREFACE_BYTES:
                self._lose("broken")
            return b""
        if not line.startswith(PREFACE):
            self._lose("broken")
            return b""
        key = session_key(self._key, self._nonce, line.removeprefix(PREFACE).decode("latin-1"))
        self._sealer, self._opener = Sealer(key, b"owner"), Opener(key, b"keeper")
        self._greeting = b""
        self._flush()
        return rest

    def connection_lost(self, exc: Exception | None) -> None:
        self._lose("eof" if exc is None else "reset")

    # JournalLink

    def send(self, message: bytes, receipt: object = None) -> None:
        self._outbox.append(message)
        self._receipts.append(receipt)
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        if self._sealer is not None and self._transport is not None and self._outbox:
            at = 0
            for count, messages in frames_of(self._outbox, _FRAME_BYTES):
                self._transport.write(self._sealer.seal(messages))
                self._unacknowledged.append(self._receipts[at : at + count])
                at += count
            self._outbox, self._receipts = [], []
        held = sum(map(len, self._outbox)) + (self._transport.get_write_buffer_size() if self._transport else 0)
        if held > MAX_HELD_BYTES:
            self._lose("too-slow")

    def _lose(self, why: str) -> None:
        owner, self._owner = self._owner, None
        self.close()
        if owner is not None:
            owner.lost(why)

    def close(self) -> None:
        self._owner = None
        self._outbox, self._receipts = [], []
        self._unacknowledged.clear()
        self._connecting.cancel()
        if self._transport is not None:
            self._transport.abort()
            self._transport = None
