"""Encode and decode the replication protocol: messages of many streams in signed frames, between owner and replica.

    frame    length (4 bytes) · signature (16) · messages
    message  kind (1) · handle (4) · number (4) · length (4) · body

A handle is the owner's number for a stream on this connection. Kinds, with the meaning of number and body:

    OPEN      number of records   the stream's identity in a line of JSON, the header's line, and all records
    APPEND    first record's      records, one a line
    FINISH    end reason          -               0: the client has all of it, 1: the client left
    DROP      -                   -
    REFUSED   -                   reason          a value of `core/replication/refusal`
    ACK       frames processed    -

An ACK is of whole frames: every message in them was accepted, except those of the REFUSED messages before it. So it
costs the same for one stream as for a thousand.

Every frame is signed with a key of this connection alone, which both sides derive from the key that the two nodes
share and from a nonce of each. The frame's number on the connection is signed with it. So a frame that is forged,
repeated, omitted or replayed is refused, and the connection is closed. A message that cannot be read or stored fails
its own stream only: it is answered with REFUSED, like a message of a kind that a later version has.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from dataclasses import dataclass
from typing import NamedTuple

import orjson

from node_agent.core.common.request_auth import request_content
from node_agent.core.journal.epochs import Epoch, epoch_from_json
from node_agent.core.replication.refusal import RefusalReason

MAX_FRAME_BYTES = 16 * 1024 * 1024
"""Twice the largest journal; the sender checks a journal's size before (`runtime/replication/manager`)."""

MAX_NAME_CHARACTERS = 128
"""The most characters of a stream's id, and of its client's name."""

_SIGNATURE_BYTES = 16
_LENGTH = struct.Struct(">I")
_HEAD = struct.Struct(">BIII")

OPEN, APPEND, FINISH, DROP, ACK, REFUSED = range(6)


class BadFrame(ValueError):
    """A frame with a wrong signature, length or content."""


class Message(NamedTuple):
    """A message of a frame; the module documents its fields by kind."""

    kind: int
    handle: int
    number: int
    body: bytes = b""


def encode(kind: int, handle: int, number: int = 0, body: bytes | bytearray = b"") -> bytes:
    """Encode a message; the module documents `number` and `body` by kind."""
    return _HEAD.pack(kind, handle, number, len(body)) + body


@dataclass(frozen=True)
class OpenMessage:
    """The body of an OPEN: a whole journal."""

    stream: str
    epoch: Epoch
    client: str
    """The client whose share of the replica's store the journal counts to; "" where it is not known."""

    header: bytes
    lines: bytes


def encode_open(handle: int, message: OpenMessage, seq: int) -> bytes:
    """Encode an OPEN. seq: the number of records."""
    identity = {"stream": message.stream, "epoch": message.epoch.to_json(), "client": message.client}
    return encode(OPEN, handle, seq, b"\n".join((orjson.dumps(identity), message.header, message.lines)))


def read_open(number: int, body: bytes) -> OpenMessage:
    """Decode the body of an OPEN of `number` records. Raises ValueError."""
    identity, header, lines = body.split(b"\n", 2)
    fields = orjson.loads(identity)
    if not isinstance(fields, dict):
        raise ValueError("no identity of a journal")
    stream, client = fields.get("stream"), fields.get("client", "")
    for name in (stream, client):
        if not isinstance(name, str) or len(name) > MAX_NAME_CHARACTERS:
            raise ValueError("not an id of a stream or a client")
    if not stream or lines.count(b"\n") != number or not _ends_with_newline(lines):
        raise ValueError("not as many records as the message's number")
    return OpenMessage(stream, epoch_from_json(fields.get("epoch")), client, header, lines)


def check_append(first: int, lines: bytes) -> None:
    """Raise ValueError where the lines are not whole records, or the first has no number."""
    if first < 1 or not lines or not _ends_with_newline(lines):
        raise ValueError("not whole records")


def encode_refused(handle: int, reason: RefusalReason) -> bytes:
    """Encode a REFUSED of the stream's message."""
    return encode(REFUSED, handle, body=reason.value.encode())


def read_refused(body: bytes) -> RefusalReason:
    """Decode the body of a REFUSED; a reason of a later version is UNREADABLE."""
    try:
        return RefusalReason(body.decode("ascii", "replace"))
    except ValueError:
        return RefusalReason.UNREADABLE


def _ends_with_newline(lines: bytes) -> bool:
    return not lines or lines.endswith(b"\n")


PREFACE = b"SYNKTI-JOURNAL/2 "
"""The first bytes of a connection to a replica, at the port of the peer API, which otherwise serves HTTP: no method.

The owner sends it with a signature of `core/common/request_auth`, the replica answers it with a nonce and a proof that
it has derived the same key (`replica_proof`); each ends its line. So the owner sends no journal to another party.
"""

CLOCK_PREFACE = b"SYNKTI-CLOCK/2 "
"""The replica's answer to an owner whose signature has another time, or is for another run of the replica's agent: the
replica's own time and boot id (`core/common/request_auth`). The replica then closes the connection, and the owner
connects again."""

MAX_PREFACE_BYTES = 512
SIGNED_CONTENT = request_content("JOURNAL", "/", (), b"")
"""The handshake signs this in place of an HTTP request."""


def derive_connection_key(key: bytes, client_nonce: str, server_nonce: str) -> bytes:
    """Derive the key of one connection from the key that the two nodes share and both sides' nonces."""
    return hmac.new(key, f"journal {client_nonce} {server_nonce}".encode(), hashlib.sha256).digest()


def replica_proof(connection_key: bytes) -> str:
    """Return what proves to the owner that the other side has the connection's key."""
    return hmac.new(connection_key, b"replica", hashlib.sha256).hexdigest()


class FrameWriter:
    """Encode and sign the frames of one direction. side: the sender's role, so that no frame can be reflected."""

    def __init__(self, key: bytes, side: bytes) -> None:
        self._key = key
        self._side = side
        self._count = 0

    def frame(self, messages: bytes) -> bytes:
        """Encode messages as the next frame."""
        signature = self.sign(messages)
        return b"".join((_LENGTH.pack(len(messages) + _SIGNATURE_BYTES), signature, messages))

    def sign(self, messages: bytes) -> bytes:
        """Return the signature of the next frame of this direction."""
        position = self._side + self._count.to_bytes(8)
        self._count += 1
        return hashlib.blake2b(messages, key=self._key, digest_size=_SIGNATURE_BYTES, person=position).digest()


class FrameReader:
    """Verify and decode the frames of one direction of a connection."""

    def __init__(self, key: bytes, side: bytes, max_frame_bytes: int = MAX_FRAME_BYTES) -> None:
        self._writer = FrameWriter(key, side)
        self._buffer = bytearray()
        self._needed_bytes = _LENGTH.size  # the next frame's length, as far as it is known
        self._max = max_frame_bytes

    def feed(self, data: bytes) -> list[list[Message]]:
        """Add received bytes. Returns the messages of each whole frame. Raises BadFrame: then disconnect."""
        if self._buffer:
            self._buffer += data
            if len(self._buffer) < self._needed_bytes:
                return []
            data, self._buffer = bytes(self._buffer), bytearray()
        frames, at = [], 0
        while (end := self._end_of_frame(data, at)) <= len(data):
            signed = at + _LENGTH.size
            body = data[signed + _SIGNATURE_BYTES : end]
            if not hmac.compare_digest(data[signed : signed + _SIGNATURE_BYTES], self._writer.sign(body)):
                raise BadFrame("a wrong signature")
            frames.append(_messages(body))
            at = end
        self._buffer += data[at:]
        self._needed_bytes = end - at
        return frames

    def _end_of_frame(self, data: bytes, at: int) -> int:
        """Return where the frame at `at` ends; where its length is missing, where the length ends. Raises BadFrame."""
        signed = at + _LENGTH.size
        if len(data) < signed:
            return signed
        (length,) = _LENGTH.unpack_from(data, at)
        if not _SIGNATURE_BYTES <= length <= self._max:
            raise BadFrame(f"a frame of {length} bytes")
        return signed + int(length)


def _messages(body: bytes) -> list[Message]:
    messages, at = [], 0
    while at < len(body):
        if len(body) - at < _HEAD.size:
            raise BadFrame("a truncated message")
        kind, handle, number, length = _HEAD.unpack_from(body, at)
        at += _HEAD.size
        if length > len(body) - at:
            raise BadFrame("a message that is longer than its frame")
        messages.append(Message(kind, handle, number, body[at : at + length]))
        at += length
    return messages
