"""Connect to replicas: messages of many streams, those of one moment in one frame.

`core/replication/ack_batches` decides what is sent when. A link queues what is sent while it connects, and at most
MAX_HELD_BYTES that the other side does not read: a replica that far behind is lost, and its streams get another. So is
one that does not answer the handshake within HANDSHAKE_TIMEOUT_S, or closes the connection instead: it is alive, and
does not accept this node as a peer.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import secrets
import socket
from collections.abc import Callable, Iterable
from typing import NamedTuple

from node_agent.adapters.http_client_connection import ClientTls
from node_agent.core.common.address import Address
from node_agent.core.common.request_auth import Refusal
from node_agent.core.node.request_signer import RequestSigner, SignedRequest
from node_agent.core.replication.ack_batches import AckBatches
from node_agent.core.replication.link_loss import LinkLossReason
from node_agent.core.replication.protocol import (
    ACK,
    CLOCK_PREFACE,
    MAX_PREFACE_BYTES,
    PREFACE,
    REFUSED,
    SIGNED_CONTENT,
    FrameReader,
    FrameWriter,
    Message,
    derive_connection_key,
    read_refused,
    replica_proof,
)
from node_agent.ports import LinkListener

CONNECT_TIMEOUT_S = 2.0
HANDSHAKE_TIMEOUT_S = 5.0
_TCP_OPTIONS = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 20_000),
)
"""A host that vanished closes nothing: after 20 s the link is lost."""

MAX_HELD_BYTES = 32 * 1024 * 1024
_COUNTED = 2**32
_log = logging.getLogger(__name__)


class TcpReplicaLinks:
    """The ReplicaLinks port.

    signer: signs the handshakes.
    clock: unix seconds, steady.
    source: as HttpClient's.
    tls: None for connections without TLS.
    """

    def __init__(
        self,
        signer: RequestSigner,
        clock: Callable[[], float],
        lag_s: float,
        source: str | None = None,
        tls: ClientTls | None = None,
    ) -> None:
        self.tls = tls
        self._source = (source, 0) if source else None
        self._signer = signer
        self._clock = clock
        self._lag_s = lag_s

    def connect(self, address: Address, listener: LinkListener) -> TcpReplicaLink:
        """Return a link to a replica, which connects in the background. listener: receives the link's events."""
        return TcpReplicaLink(address, self._source, self, AckBatches(self._lag_s), listener)

    def handshake(self, address: Address, *, is_retry: bool = False) -> Handshake | None:
        """Return what a connection to a replica begins with; None where this node shares no key with it.

        is_retry: the replica has just sent its time and its boot id.
        """
        now = self._clock()
        signed = self._signer.sign(str(address), SIGNED_CONTENT, now, secrets.token_hex(12), is_retry=is_retry)
        if isinstance(signed, Refusal):
            _log.warning("no journal is sent to %s: it is %s", address, signed.value)
            return None
        return Handshake(signed, now)

    def on_peer_clock(self, address: Address, handshake: Handshake, line: bytes) -> bool:
        """Record the time that a replica sent with its rejection; return whether a second handshake can succeed."""
        now = self._clock()
        return self._signer.record_clock(
            str(address), line.decode("latin-1"), handshake.signed, now - handshake.at, now
        )


class Handshake(NamedTuple):
    """What a connection to a replica begins with. at: when it was signed, in this node's unix seconds."""

    signed: SignedRequest
    at: float


class TcpReplicaLink(asyncio.Protocol):
    """The ReplicaLink port; it connects by itself, and once more where the replica's clock or boot id differs."""

    def __init__(
        self,
        address: Address,
        source: tuple[str, int] | None,
        links: TcpReplicaLinks,
        batches: AckBatches,
        listener: LinkListener,
    ) -> None:
        self._address = address
        self._source = source
        self._links = links
        self._handshake = links.handshake(address)
        self._retries_handshake = False
        self._batches = batches
        self._owner: LinkListener | None = listener
        self._acknowledged = 0  # batches
        self._flushing = False
        self._received = b""
        self._transport: asyncio.Transport | None = None
        self._writer: FrameWriter | None = None
        self._reader: FrameReader | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._handshake_timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._connecting = self._loop.create_task(self._connect())

    async def _connect(self) -> None:
        if self._handshake is None:
            self._fail(LinkLossReason.TURNED_AWAY)
            return
        host, port = self._address.host, self._address.port
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                context = None if self._links.tls is None else self._links.tls.client
                await self._loop.create_connection(lambda: self, host, port, local_addr=self._source, ssl=context)
        except ConnectionRefusedError:
            self._fail(LinkLossReason.REFUSED)
        except (TimeoutError, OSError):
            self._fail(LinkLossReason.UNREACHABLE)

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the handshake, and bound the wait for its answer."""
        self._transport = transport  # type: ignore[assignment] # create_connection gives a Transport
        if self._owner is None or self._handshake is None:
            self.close()
            return
        if self._links.tls is not None and not self._links.tls.accepts_server(transport, self._address):
            self._fail(LinkLossReason.BROKEN)
            return
        self._handshake_timer = self._loop.call_later(HANDSHAKE_TIMEOUT_S, self._fail, LinkLossReason.SILENT)
        if (sock := transport.get_extra_info("socket")) is not None:
            for option in _TCP_OPTIONS:
                sock.setsockopt(*option)
        self._transport.write(PREFACE + self._handshake.signed.header.encode() + b"\n")  # type: ignore[union-attr] # it was just set

    def data_received(self, data: bytes) -> None:
        """Process the answer to the handshake, then frames; an invalid one loses the link as broken."""
        if self._owner is None:
            return
        if self._reader is None:
            data = self._on_handshake(data)
        if self._reader is None:
            return
        try:
            for messages in self._reader.feed(data):
                self._on_messages(messages)
        except ValueError:  # a bad frame, or an acknowledgement of what was never sent
            self._fail(LinkLossReason.BROKEN)

    def _on_messages(self, messages: Iterable[Message]) -> None:
        for kind, handle, number, body in messages:
            if self._owner is None:
                return
            if kind == ACK:
                receipts = self._batches.acknowledged((number - self._acknowledged) % _COUNTED)
                self._acknowledged = number
                self._flush()
                self._owner.acknowledged(receipts)
            elif kind == REFUSED:
                self._owner.refused(handle, read_refused(body))

    def _on_handshake(self, data: bytes) -> bytes:
        """Process the replica's first line; return the data behind it."""
        received = self._received + data
        line, end, rest = received.partition(b"\n")
        if end and line.startswith(CLOCK_PREFACE):
            self._retry_handshake(line.removeprefix(CLOCK_PREFACE))
            return b""
        if len(line) > MAX_PREFACE_BYTES or (end and not line.startswith(PREFACE)):
            self._fail(LinkLossReason.BROKEN)
            return b""
        if not end or self._handshake is None:
            self._received = received
            return b""
        signed = self._handshake.signed
        nonce, _, proof = line.removeprefix(PREFACE).decode("latin-1").partition(" ")
        key = derive_connection_key(signed.key.secret, signed.nonce, nonce)
        if not hmac.compare_digest(proof.encode(), replica_proof(key).encode()):
            self._fail(LinkLossReason.BROKEN)
            return b""
        self._writer, self._reader = FrameWriter(key, b"owner"), FrameReader(key, b"replica")
        self._received = b""
        if self._handshake_timer is not None:
            self._handshake_timer.cancel()
        self._flush()
        return rest

    def _retry_handshake(self, line: bytes) -> None:
        """Retry in the replica's time, once per link: a second rejection has another cause."""
        handshake = self._handshake
        if self._retries_handshake or not handshake or not self._links.on_peer_clock(self._address, handshake, line):
            self._fail(LinkLossReason.TURNED_AWAY)
            return
        _log.info("replica %s has another clock, or another boot id; retrying the handshake", self._address)
        self._retries_handshake = True
        if self._handshake_timer is not None:
            self._handshake_timer.cancel()
        self._handshake = self._links.handshake(self._address, is_retry=True)
        self._received = b""
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.abort()  # `connection_lost` then connects again

    def connection_lost(self, exc: Exception | None) -> None:
        """Connect again where the handshake is retried; else lose the link."""
        if self._retries_handshake and self._transport is None and self._owner is not None:
            self._connecting = self._loop.create_task(self._connect())
        elif self._reader is None:
            self._fail(LinkLossReason.TURNED_AWAY)
        else:
            self._fail(LinkLossReason.EOF if exc is None else LinkLossReason.RESET)

    # ReplicaLink

    @property
    def is_late(self) -> bool:
        """Whether an acknowledgement is overdue."""
        return self._batches.is_lagging

    def send(self, message: bytes, receipt: object = None) -> None:
        """Queue a message; it is sent with the others of this moment. receipt: passed to the listener with its ack."""
        if self._batches.add(message, receipt, self._loop.time()):
            self._schedule_check()
            if not self._flushing and self._batches.may_send:
                self._flushing = True
                self._loop.call_soon(self._flush)  # once this moment's messages are all there

    def _flush(self) -> None:
        self._flushing = False
        if self._writer is None or self._transport is None:
            if self._batches.queued_bytes > MAX_HELD_BYTES:
                self._fail(LinkLossReason.TOO_SLOW)
            return
        while self._batches.may_send:
            self._transport.write(self._writer.frame(self._batches.next_batch()))

    def _schedule_check(self) -> None:
        """Schedule the check that reports overdue messages to the listener."""
        next_due_at = self._batches.next_deadline() if self._timer is None else None
        if next_due_at is not None:
            self._timer = self._loop.call_at(next_due_at, self._check_overdue)

    def _check_overdue(self) -> None:
        self._timer = None
        receipts = self._batches.overdue(self._loop.time())
        self._schedule_check()
        if receipts and self._owner is not None:
            self._owner.overdue(receipts)
        if self._batches.queued_bytes > MAX_HELD_BYTES:
            self._fail(LinkLossReason.TOO_SLOW)

    def _fail(self, reason: LinkLossReason) -> None:
        listener, self._owner = self._owner, None
        self.close()
        if listener is not None:
            listener.lost(reason)

    def close(self) -> None:
        """Close the connection, and drop what is queued; the listener receives nothing more."""
        self._owner = None
        self._connecting.cancel()
        for timer in (self._timer, self._handshake_timer):
            if timer is not None:
                timer.cancel()
        self._timer = self._handshake_timer = None
        if self._transport is not None:
            self._transport.abort()
            self._transport = None
