"""Messages: the header, and the MAC that authenticates the whole."""

from __future__ import annotations

import hmac
import struct
from collections.abc import Iterable
from enum import IntEnum
from hashlib import blake2b
from typing import NamedTuple

VERSION = 1
MAX_DATAGRAM = 1_200
"""Bytes. Fits any path on which IPv6 works (1,280) with its headers, so that nothing is ever fragmented."""

BOOT_ID_BYTES = 6
MAC_BYTES = 16
UNKNOWN_BOOT_ID = bytes(BOOT_ID_BYTES)
"""The receiver's boot id where the sender does not know it yet."""

_HEADER = struct.Struct(">BB6s6sII")
HEADER_BYTES = _HEADER.size
_PERSON = b"synkti-gossip-1"
MAX_MACS = 4_096
"""One for each peer, twice during a rotation of the cluster's key."""


class MessageKind(IntEnum):
    """JOIN: a PING to a node that may not know the sender, whose introduction comes first.

    PING_REQ: asks the receiver to PING `target`. ACK, NACK: a probe was answered; was not answered in time. GOSSIP:
    updates alone. SYNC_REQUEST, SYNC_RESPONSE: over a stream, with a summary between header and updates; larger than a
    datagram.
    """

    PING = 1
    ACK = 2
    PING_REQ = 3
    NACK = 4
    GOSSIP = 5
    JOIN = 6
    SYNC_REQUEST = 7
    SYNC_RESPONSE = 8


class Header(NamedTuple):
    """The head of a message.

    number: of this message among all of its sender's; probe: the sender's number of the probe, or the one that it
    echoes.
    """

    kind: MessageKind
    sender: bytes
    receiver: bytes
    number: int
    probe: int


class MessageMac:
    """Authenticates messages: its MAC proves that the sender has the key. It does not encrypt."""

    def __init__(self, key: bytes) -> None:
        self._keyed = blake2b(key=blake2b(key, digest_size=64).digest(), digest_size=MAC_BYTES, person=_PERSON)

    def _compute(self, content: bytes) -> bytes:
        keyed = self._keyed.copy()
        keyed.update(content)
        return keyed.digest()

    def append(self, content: bytes) -> bytes:
        """Return the content with its MAC appended."""
        return content + self._compute(content)

    def verify(self, message: bytes) -> bytes | None:
        """Return the content of a message, None where its MAC is not the key's."""
        content = message[:-MAC_BYTES]
        return content if hmac.compare_digest(self._compute(content), message[-MAC_BYTES:]) else None


class MessageMacs:
    """The MACs of several keys; those used last are kept, because to make one takes longer than to use it."""

    def __init__(self) -> None:
        self._macs: dict[bytes, MessageMac] = {}

    def append(self, key: bytes, content: bytes) -> bytes:
        """Return the content with its MAC appended."""
        return self._mac(key).append(content)

    def verify(self, keys: Iterable[bytes], message: bytes) -> bytes | None:
        """Return the content of a message, None where its MAC is that of none of the keys."""
        for key in keys:
            content = self._mac(key).verify(message)
            if content is not None:
                return content
        return None

    def _mac(self, key: bytes) -> MessageMac:
        mac = self._macs.get(key)
        if mac is None:
            if len(self._macs) >= MAX_MACS:
                self._macs.clear()
            mac = self._macs[key] = MessageMac(key)
        return mac


def write_header(header: Header, target: bytes = b"") -> bytes:
    """Write a header. target: a boot id, for PING_REQ only."""
    return _HEADER.pack(VERSION, *header) + target


def read_header(content: bytes) -> Header:
    """Read a header. Raises ValueError."""
    if len(content) < HEADER_BYTES:
        raise ValueError("shorter than a header")
    version, kind, sender, receiver, number, probe = _HEADER.unpack_from(content)
    if version != VERSION:
        raise ValueError(f"of version {version}")
    return Header(MessageKind(kind), sender, receiver, number, probe)
