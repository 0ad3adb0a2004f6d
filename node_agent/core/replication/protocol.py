"""What owners and keepers say to each other on one connection: many streams' messages in one signed frame.

    frame    length (4 bytes) · signature (16) · messages
    message  kind (1) · handle (4) · number (4) · length (4) · body

A handle is the owner's short name for a stream on this connection. Kinds, with what number and body mean:

    OPEN      number of lines     whose it is in a line of JSON, the opening's line, and all lines behind it
    APPEND    first line's        lines
    FINISH    how it ended        -               0: the client has all of it, 1: the client left
    FORGET    -                   -
    REFUSED   -                   why
    ACK       frames dealt with   -

An ACK is of whole frames: everything in them was taken, but for what a REFUSED in front of it names. So it costs the
same for one stream as for a thousand.

Every frame is signed with a key of this connection alone, which both sides derive from the cluster's key and from
what each of them chose at random; its place in the connection is signed with it. So a frame that is forged, repeated,
left out or played back is refused, and the connection with it. A message that cannot be read, or may not be kept, costs
its own stream alone: it is answered with REFUSED, as one of a kind that a later version has.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from dataclasses import dataclass
from typing import NamedTuple

import orjson

from node_agent.core.journal.epochs import Epoch, epoch_from_json

MAX_FRAME_BYTES = 16 * 1024 * 1024
"""Twice what a keeper keeps of one stream: whoever sends checks the size before (`runtime/replication/manager`)."""

MAX_NAME_CHARACTERS = 128
"""Of a stream's id, and of its client's name."""

_SIGNATURE_BYTES = 16
_LENGTH = struct.Struct(">I")
_HEAD = struct.Struct(">BIII")

OPEN, APPEND, FINISH, DROP, ACK, REFUSED = range(6)


class BadFrame(ValueError):
    """Not from who it says, or not what may be sent."""


class Message(NamedTuple):
    kind: int
    handle: int
    number: int
    body: bytes = b""


def encode(kind: int, handle: int, number: int = 0, body: bytes | bytearray = b"") -> bytes:
    return _HEAD.pack(kind, handle, number, len(body)) + body


@dataclass(frozen=True)
class OpenMessage:
    """What an OPEN says. client: whose share of the keeper's room it takes, "" where that is not known."""

    stream: str
    epoch: Epoch
    client: str
    header: bytes
    lines: bytes


def encode_open(handle: int, opened: OpenMessage, seq: int) -> bytes:
    """seq: the number of lines."""
    named = {"stream": opened.stream, "epoch": opened.epoch.to_json(), "client": opened.client}
    return encode(OPEN, handle, seq, b"\n".join((orjson.dumps(named), opened.header, opened.lines)))


def read_open(number: int, body: bytes) -> OpenMessage:
    """The body of an OPEN of `number` lines. Raises ValueError."""
    named, opening, lines = body.split(b"\n", 2)
    told = orjson.loads(named)
    if not isinstance(told, dict):
        raise ValueError("not the beginning of a journal")
    stream, client = told.get("stream"), told.get("client", "")
    for name in (stream, client):
        if not isinstance(name, str) or len(name) > MAX_NAME_CHARACTERS:
            raise ValueError("not the name of a stream or a client")
    if not stream or lines.count(b"\n") != number or not _ends_with_newline(lines):
        raise ValueError("not as many lines as it says")
    return OpenMessage(stream, epoch_from_json(told.get("epoch")), client, opening, lines)


def check_append(first: int, lines: bytes) -> None:
    """Raises ValueError where they are no lines, or their first has no number."""
    if first < 1 or not lines or not _ends_with_newline(lines):
        raise ValueError("not whole lines")


def _ends_with_newline(lines: bytes) -> bool:
    return not lines or lines.endswith(b"\n")


PREFACE = b"SYNKTI-JOURNAL/1 "
"""What a connection to a keeper begins with, at the door that otherwise speaks HTTP; no HTTP method begins so.

The owner sends it with a stamp of `core/common/request_auth` behind it, the keeper answers it with a nonce; each ends
its line.
"""

CLOCK_PREFACE = b"SYNKTI-CLOCK/1 "
"""What the keeper answers instead to an owner whose stamp is of another time: its own time
(`core/common/request_auth`). It then closes the connection, and the owner makes another one."""

MAX_PREFACE_BYTES = 512
SIGNED_TARGET = ("JOURNAL", "/")
"""What the stamp is a signature of, in the place of an HTTP method and its target."""


def derive_connection_key(key: bytes, client_nonce: str, server_nonce: str) -> bytes:
    return hmac.new(key, f"journal {client_nonce} {server_nonce}".encode(), hashlib.sha256).digest()


class FrameWriter:
    """Makes frames of one direction. side: who speaks, so that no frame can be sent back to its sender."""

    def __init__(self, key: bytes, side: bytes) -> None:
        self._key = key
        self._side = side
        self._count = 0

    def frame(self, messages: bytes) -> bytes:
        signature = self.sign(messages)
        return b"".join((_LENGTH.pack(len(messages) + _SIGNATURE_BYTES), signature, messages))

    def sign(self, messages: bytes) -> bytes:
        """The signature of the next frame of this direction."""
        place = self._side + self._count.to_bytes(8)
        self._count += 1
        return hashlib.blake2b(messages, key=self._key, digest_size=_SIGNATURE_BYTES, person=place).digest()


class FrameReader:
    """Bytes of one direction in, messages out."""

    def __init__(self, key: bytes, side: bytes, max_frame_bytes: int = MAX_FRAME_BYTES) -> None:
        self._writer = FrameWriter(key, side)
        self._buffer = bytearray()
        self._needed_bytes = _LENGTH.size  # so many bytes have to be here before there is anything new to see
        self._max = max_frame_bytes

    def feed(self, data: bytes) -> list[list[Message]]:
        """The messages of each frame that became whole. Raises BadFrame: the connection is worth nothing any more."""
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
        """Where the frame that begins at `at` ends, or its length, where that is not here. Raises BadFrame."""
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
            raise BadFrame("half a message")
        kind, handle, number, length = _HEAD.unpack_from(body, at)
        at += _HEAD.size
        if length > len(body) - at:
            raise BadFrame("a message that is none")
        messages.append(Message(kind, handle, number, body[at : at + length]))
        at += length
    return messages
