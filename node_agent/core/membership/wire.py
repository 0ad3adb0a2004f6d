"""Membership's wire format: authenticated messages of at most MAX_DATAGRAM bytes, filled with updates.

    message = version 1 | kind 1 | sender's boot id 6 | receiver's boot id 6 | number 4 | probe 4
              | target's boot id 6, in a PING_REQ | updates | MAC 16
    update  = kind 1 | length 2 | content

A *boot id* names one run of a node's agent: six random bytes. A message names the receiver's boot id, so a recording is
useless to another node, and to the same node after a restart; `number` counts the sender's messages, so that its
receiver accepts each only once (docs/decisions/0007). The MAC is a keyed BLAKE2b of all before it; the content is not
encrypted.

An update of an unknown kind is skipped, and what follows a known one's content is ignored: nodes of two versions meet
during every deployment. So is an update whose form is right and whose content cannot be (an address that no datagram
can be sent to, an incarnation that no clock reaches, an id that is not printable): one node that another one introduces
wrongly must not cost all that is in the same message. Everything else that does not fit raises ValueError, and the
whole message is dropped.
"""

from __future__ import annotations

import hmac
import re
import struct
from collections.abc import Callable, Iterator
from enum import IntEnum
from hashlib import blake2b
from typing import NamedTuple

from node_agent.contract.addresses import read_node_address
from node_agent.contract.states import NodeState
from node_agent.core.membership.suspicion import MAX_SUSPECTORS
from node_agent.core.node.status import CONTINUATION_METHODS, Load, NodeStatus, Pool
from node_agent.core.openai.request_digest import DIGEST_BYTES

VERSION = 1
MAX_INCARNATION = 2**53 - 1
"""Unix milliseconds of a time that no clock has, and the largest whole number that JSON keeps. A larger one is invalid:
a node that applied it could never apply a higher one in 64 bits."""

MAX_DATAGRAM = 1_200
"""Bytes. Fits any path on which IPv6 works (1,280) with its headers, so that nothing is ever fragmented."""

BOOT_ID_BYTES = 6
MAC_BYTES = 16
UNKNOWN_BOOT_ID = bytes(BOOT_ID_BYTES)
"""The receiver's boot id where the sender does not know it yet."""

_HEADER = struct.Struct(">BB6s6sII")
HEADER_BYTES = _HEADER.size
_UPDATE_HEADER = struct.Struct(">BH")
UPDATE_HEADER_BYTES = _UPDATE_HEADER.size
_CLAIM = struct.Struct(">6sQ")
_STATE = struct.Struct(">6sQB")
_DEATH = struct.Struct(">6sQ6s")
_REFUSED = struct.Struct(f">{DIGEST_BYTES}sH")
_LOAD = struct.Struct(">6sIHHBHH")
LOAD_BYTES = _LOAD.size
_STATES = tuple(NodeState)
_STATE_CODES = {state: order_index for order_index, state in enumerate(_STATES)}
_METHOD_BITS = {method: 0x10 << order_index for order_index, method in enumerate(CONTINUATION_METHODS)}
_PERSON = b"synkti-gossip-1"
_TENTH_MS = 1e-4
_PREFILL_UNIT = 10.0

_PRINTABLE = re.compile(r"[!-~]+")
_CLIENT_ADDRESS = re.compile(r"([A-Za-z0-9._-]+:[0-9]{1,5})?")
_MAX_TEXT_BYTES = {
    "instance_id": 64,
    "peer": 64,
    "front": 64,
    "zone": 32,
    "instance_type": 32,
    "model": 128,
    "version": 32,
}
"""Of each text, in bytes of UTF-8: an introduction must leave room in a datagram for what it is sent with."""


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


class Intro(NamedTuple):
    """A node's whole status, for nodes that do not know it."""

    boot_id: bytes
    status: NodeStatus


class Alive(NamedTuple):
    """A node is alive, in a higher incarnation or a new state; for nodes that have its introduction."""

    boot_id: bytes
    incarnation: int
    state: NodeState
    continuation_methods: tuple[str, ...] = ()


class Suspect(NamedTuple):
    """A node is suspected. Its state and methods are its own in that incarnation, which the reader may have missed."""

    boot_id: bytes
    incarnation: int
    state: NodeState
    suspectors: frozenset[bytes]
    continuation_methods: tuple[str, ...] = ()


class Dead(NamedTuple):
    """A suspicion timed out. by: the boot id of the node on which it did."""

    boot_id: bytes
    incarnation: int
    by: bytes


class Left(NamedTuple):
    """A node ended as it should; it sends this itself."""

    boot_id: bytes
    incarnation: int


class Loads(NamedTuple):
    """The loads of several nodes, still packed: `read_loads` reads them."""

    packed: bytes


class Refusal(NamedTuple):
    """Requests of this content are refused for so many more seconds (`core/failure/crash_suspects`)."""

    content: bytes
    left_s: int


Update = Intro | Alive | Suspect | Dead | Left | Loads | Refusal

_INTRO, _ALIVE, _SUSPECT, _DEAD, _LEFT, _LOADS, _REFUSAL = 1, 2, 3, 4, 5, 6, 7


class MessageMac:
    """Authenticates messages: its MAC proves that the sender has the cluster's key. It does not encrypt."""

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
        """Return the content of a message, None where its MAC is not the cluster's."""
        content = message[:-MAC_BYTES]
        return content if hmac.compare_digest(self._compute(content), message[-MAC_BYTES:]) else None


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


def write_intro(boot_id: bytes, status: NodeStatus) -> bytes:
    """Write an introduction. Raises ValueError where a text is too long; `check_status` names it."""
    texts = [text.encode() for text in _texts(status).values()]
    packed = b"".join(bytes((len(text),)) + text for text in texts)
    return _frame(
        _INTRO,
        _STATE.pack(boot_id, status.incarnation, _pack_state(status.state, status.continuation_methods)) + packed,
    )


def is_intro(update: bytes) -> bool:
    """Return whether an encoded update, which is not empty, is an introduction."""
    return update[0] == _INTRO


def check_status(status: NodeStatus) -> None:
    """Raise ValueError for a status that would not fit in a datagram; the message names the text that is too long."""
    for name, text in _texts(status).items():
        if len(text.encode()) > _MAX_TEXT_BYTES[name]:
            raise ValueError(
                f"{name} {text!r} is longer than {_MAX_TEXT_BYTES[name]} bytes, which is all that peers take"
            )


def _check_peer(status: NodeStatus) -> None:
    """Check that this node can use a status that it received.

    Its texts must fit in a line of a log, its id in a header's value, and datagrams must reach its peer API.

    Raises:
        ValueError: It cannot; the message names what is wrong.
    """
    check_status(status)
    if not all(text.isprintable() for text in _texts(status).values()):
        raise ValueError("a text with characters that cannot be printed")
    if not _PRINTABLE.fullmatch(status.instance_id) or not _CLIENT_ADDRESS.fullmatch(status.client_address):
        raise ValueError(f"instance {status.instance_id!r} at {status.client_address!r}")
    read_node_address(status.peer_address)
    _check_incarnation(status.incarnation)


def _check_incarnation(incarnation: int) -> None:
    if incarnation > MAX_INCARNATION:
        raise ValueError(f"incarnation {incarnation} is of no clock")


def _texts(status: NodeStatus) -> dict[str, str]:
    return {
        "instance_id": status.instance_id,
        "peer": status.peer_address,
        "front": status.client_address,
        "zone": status.pool.zone,
        "instance_type": status.pool.instance_type,
        "model": status.model,
        "version": status.version,
    }


def _pack_state(state: NodeState, continuation_methods: tuple[str, ...]) -> int:
    """Pack what changes under a boot id into one byte: the state in its lower half, a bit per known method above."""
    return _STATE_CODES[state] | sum(_METHOD_BITS.get(method, 0) for method in set(continuation_methods))


def _unpack_state(word: int) -> tuple[NodeState, tuple[str, ...]]:
    """Unpack the byte of `_pack_state`. Raises _UnusableUpdate for a state that only another version has."""
    order_index = word & 0x0F
    if order_index >= len(_STATES):
        raise _UnusableUpdate(f"state {order_index}")
    return _STATES[order_index], tuple(method for method, bit in _METHOD_BITS.items() if word & bit)


def write_alive(
    boot_id: bytes, incarnation: int, state: NodeState, continuation_methods: tuple[str, ...] = ()
) -> bytes:
    """Encode an Alive update; a method that is not in CONTINUATION_METHODS is left out."""
    return _frame(_ALIVE, _STATE.pack(boot_id, incarnation, _pack_state(state, continuation_methods)))


def write_suspect(
    boot_id: bytes,
    incarnation: int,
    state: NodeState,
    suspectors: frozenset[bytes],
    continuation_methods: tuple[str, ...] = (),
) -> bytes:
    """Encode a Suspect update. suspectors: boot ids, which are sorted, so that equal updates have equal bytes."""
    return _frame(
        _SUSPECT,
        _STATE.pack(boot_id, incarnation, _pack_state(state, continuation_methods)) + b"".join(sorted(suspectors)),
    )


def write_dead(boot_id: bytes, incarnation: int, by: bytes) -> bytes:
    """Encode a Dead update. by: the boot id of the node on which the suspicion timed out."""
    return _frame(_DEAD, _DEATH.pack(boot_id, incarnation, by))


def write_accusation(update: Suspect | Dead) -> bytes:
    """Encode a received accusation again, for the accused node."""
    return write_suspect(*update) if isinstance(update, Suspect) else write_dead(*update)


def write_left(boot_id: bytes, incarnation: int) -> bytes:
    """Encode a Left update. incarnation: the node's last one."""
    return _frame(_LEFT, _CLAIM.pack(boot_id, incarnation))


def write_load(boot_id: bytes, version: int, load: Load) -> bytes:
    """Write one load, for `write_loads`; figures beyond the format's range become its largest."""
    return _LOAD.pack(
        boot_id,
        version & 0xFFFFFFFF,
        _clamped(load.running, 0xFFFF),
        _clamped(load.waiting, 0xFFFF),
        _clamped(load.kv_use * 0xFF, 0xFF),
        _clamped(load.time_per_token_s / _TENTH_MS, 0xFFFF),
        _clamped(load.prefill_tokens_s / _PREFILL_UNIT, 0xFFFF),
    )


def _clamped(figure: float, most: int) -> int:
    """Return the nearest whole number of the format; 0 for a NaN (hence the order of arguments)."""
    return round(min(most, max(0, figure)))


def write_loads(packed: list[bytes]) -> bytes:
    """Encode the loads of several nodes as one update. packed: each as `write_load` writes it."""
    return _frame(_LOADS, b"".join(packed))


def write_refusal(content: bytes, left_s: float) -> bytes:
    """Encode a Refusal. content: a digest of DIGEST_BYTES; left_s: rounded to whole seconds, at most 0xFFFF."""
    return _frame(_REFUSAL, _REFUSED.pack(content, min(max(0, round(left_s)), 0xFFFF)))


def _frame(kind: int, content: bytes) -> bytes:
    return _UPDATE_HEADER.pack(kind, len(content)) + content


def read_updates(content: bytes, at: int) -> Iterator[Update]:
    """Read the updates from byte `at` on, without unknown ones. Raises ValueError."""
    end = len(content)
    while at < end:
        if at + UPDATE_HEADER_BYTES > end:
            raise ValueError("an update without its length")
        kind, length = _UPDATE_HEADER.unpack_from(content, at)
        at += UPDATE_HEADER_BYTES
        if at + length > end:
            raise ValueError("an update longer than its message")
        read = _READERS.get(kind)
        if read is not None:
            try:
                update = read(content[at : at + length])
                _check(update)
            except _UnusableUpdate:
                pass  # the next update may be usable
            except (struct.error, IndexError) as error:
                raise ValueError(f"update {kind}: {error}") from error
            else:
                yield update
        at += length


class _UnusableUpdate(Exception):
    """An update of the right form whose content cannot be."""


def _check(update: Update) -> None:
    """Raise _UnusableUpdate for an update whose content cannot be."""
    try:
        match update:
            case Intro(_, status):
                _check_peer(status)
            case Alive() | Suspect() | Dead() | Left():
                _check_incarnation(update.incarnation)
    except ValueError as error:
        raise _UnusableUpdate(str(error)) from error


def _read_intro(content: bytes) -> Intro:
    boot_id, incarnation, word = _STATE.unpack_from(content)
    state, continuation_methods = _unpack_state(word)
    at = _STATE.size
    texts = []
    for _ in _MAX_TEXT_BYTES:
        length = content[at]
        if at + 1 + length > len(content):
            raise ValueError("a text longer than its introduction")
        texts.append(_text(content[at + 1 : at + 1 + length]))
        at += 1 + length
    instance_id, peer, front, zone, instance_type, model, version = texts
    status = NodeStatus(
        instance_id, peer, front, state, Pool(zone, instance_type), model, incarnation, version, continuation_methods
    )
    return Intro(boot_id, status)


def _text(content: bytes) -> str:
    """Decode a text. Raises _UnusableUpdate."""
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise _UnusableUpdate(str(error)) from error


def _read_alive(content: bytes) -> Alive:
    boot_id, incarnation, word = _STATE.unpack_from(content)
    return Alive(boot_id, incarnation, *_unpack_state(word))


def _read_suspect(content: bytes) -> Suspect:
    boot_id, incarnation, word = _STATE.unpack_from(content)
    state, continuation_methods = _unpack_state(word)
    boot_ids = [content[at : at + BOOT_ID_BYTES] for at in range(_STATE.size, len(content), BOOT_ID_BYTES)]
    suspectors = frozenset(boot_id for boot_id in boot_ids[:MAX_SUSPECTORS] if len(boot_id) == BOOT_ID_BYTES)
    if not suspectors:
        raise ValueError("a suspicion without suspectors")
    return Suspect(boot_id, incarnation, state, suspectors, continuation_methods)


def _read_dead(content: bytes) -> Dead:
    return Dead(*_DEATH.unpack_from(content))


def _read_left(content: bytes) -> Left:
    return Left(*_CLAIM.unpack_from(content))


def _read_refusal(content: bytes) -> Refusal:
    return Refusal(*_REFUSED.unpack_from(content))


def _read_loads(content: bytes) -> Loads:
    if len(content) % LOAD_BYTES:
        raise ValueError("half a load")
    return Loads(content)


PackedLoad = tuple[bytes, int, int, int, int, int, int]
"""Boot id, version, and the figures of which `load_of` makes a Load."""


def read_loads(packed: bytes) -> Iterator[PackedLoad]:
    """Unpack the loads of an update, in order; most are not new, so no Load is made of them here."""
    return _LOAD.iter_unpack(packed)


def load_of(read: PackedLoad) -> Load:
    """Convert the fields of a packed load to the units of a Load."""
    _, _, running, waiting, kv_use, time_per_token, prefill = read
    return Load(running, waiting, kv_use / 0xFF, time_per_token * _TENTH_MS, prefill * _PREFILL_UNIT)


_READERS: dict[int, Callable[[bytes], Update]] = {
    _INTRO: _read_intro,
    _ALIVE: _read_alive,
    _SUSPECT: _read_suspect,
    _DEAD: _read_dead,
    _LEFT: _read_left,
    _LOADS: _read_loads,
    _REFUSAL: _read_refusal,
}
