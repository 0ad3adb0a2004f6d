"""Membership's wire format: sealed messages of at most MAX_DATAGRAM bytes, full of rumours.

    message = version 1 | kind 1 | sender's life 6 | receiver's life 6 | number 4 | probe 4 | target's life 6, or not
              | rumours | seal 16
    rumour  = kind 1 | length 2 | content

A *life* is a node's agent from its start to its end: six random bytes. A message names the life that it is meant for,
so a recording is worth nothing to anyone else, nor to the same node after a restart; `number` counts the sender's
messages, so that its receiver takes each only once (docs/decisions/0007). The seal is a keyed BLAKE2b of all before it.

A rumour of an unknown kind is skipped and what follows a known one's content is ignored: nodes of two versions meet
during every update. So is one whose form is right and whose content cannot be (an address that no datagram can be sent
to, an incarnation that no clock reaches, a name that is no text): one node that another one introduces wrongly must not
cost all that is in the same message. Everything else that does not fit raises ValueError, and the whole message is
dropped.
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
from node_agent.core.membership.suspicion import MAX_ACCUSERS
from node_agent.core.node.status import CONTINUATION_METHODS, Load, NodeStatus, Pool
from node_agent.core.openai.request_digest import DIGEST_BYTES

VERSION = 1
MAX_INCARNATION = 2**53 - 1
"""Unix milliseconds of a time that no clock has, and the largest whole number that JSON keeps. A larger one is rubbish:
who believed it could not be told otherwise in 64 bits any more."""

MAX_DATAGRAM = 1_200
"""Bytes. Fits any path on which IPv6 works (1,280) with its headers, so that nothing is ever fragmented."""

LIFE_BYTES = 6
SEAL_BYTES = 16
NOBODY = bytes(LIFE_BYTES)
"""The receiver's life where the sender does not know it yet."""

_HEADER = struct.Struct(">BB6s6sII")
HEADER_BYTES = _HEADER.size
_PREFACE = struct.Struct(">BH")
PREFACE_BYTES = _PREFACE.size
_CLAIM = struct.Struct(">6sQ")
_STATE = struct.Struct(">6sQB")
_DEATH = struct.Struct(">6sQ6s")
_REFUSED = struct.Struct(f">{DIGEST_BYTES}sH")
_LOAD = struct.Struct(">6sIHHBHH")
LOAD_BYTES = _LOAD.size
_STATES = tuple(NodeState)
_PLACES = {state: place for place, state in enumerate(_STATES)}
_WAY_BITS = {way: 0x10 << place for place, way in enumerate(CONTINUATION_METHODS)}
_PERSON = b"synkti-gossip-1"
_TENTH_MS = 1e-4
_PREFILL_UNIT = 10.0

_WORD = re.compile(r"[!-~]+")
_FRONT = re.compile(r"([A-Za-z0-9._-]+:[0-9]{1,5})?")
_LONGEST = {"instance_id": 64, "peer": 64, "front": 64, "zone": 32, "instance_type": 32, "model": 128, "version": 32}
"""Of each text, in bytes of UTF-8: an introduction must leave room in a datagram for what it is sent with."""


class Kind(IntEnum):
    """HELLO: a PING from who may be unknown, its introduction first. ASK: a PING of `target` on the sender's behalf.

    ACK, NACK: a probe was answered; was not answered in time. GOSSIP: rumours alone. SYNC, SYNCED: a question for
    what differs and its answer, over a stream, with a summary between header and rumours; larger than a datagram.
    """

    PING = 1
    ACK = 2
    ASK = 3
    NACK = 4
    GOSSIP = 5
    HELLO = 6
    SYNC = 7
    SYNCED = 8


class Header(NamedTuple):
    """number: of this message among all of its sender's; probe: the sender's own name for what is asked, or echoed."""

    kind: Kind
    sender: bytes
    receiver: bytes
    number: int
    probe: int


class Intro(NamedTuple):
    """All that a node says of itself, for those who never heard of it."""

    life: bytes
    status: NodeStatus


class Alive(NamedTuple):
    """A node lives, in a higher incarnation or a new state; for those who have its introduction."""

    life: bytes
    incarnation: int
    state: NodeState
    ways: tuple[str, ...] = ()


class Suspect(NamedTuple):
    """state, ways: the node's own word in that incarnation, which who reads this may have missed."""

    life: bytes
    incarnation: int
    state: NodeState
    accusers: frozenset[bytes]
    ways: tuple[str, ...] = ()


class Dead(NamedTuple):
    """by: the life of the node whose patience ended."""

    life: bytes
    incarnation: int
    by: bytes


class Left(NamedTuple):
    """A node ended as it should: its own last word."""

    life: bytes
    incarnation: int


class Loads(NamedTuple):
    """Of several nodes, still packed: `read_loads` reads them."""

    packed: bytes


class Refusal(NamedTuple):
    """Requests of this content are refused for so many more seconds (`core/failure/crash_suspects`)."""

    content: bytes
    left_s: int


Rumour = Intro | Alive | Suspect | Dead | Left | Loads | Refusal

_INTRO, _ALIVE, _SUSPECT, _DEAD, _LEFT, _LOADS, _REFUSAL = 1, 2, 3, 4, 5, 6, 7


class MessageMac:
    """Says that a message was made by who has the cluster's key."""

    def __init__(self, key: bytes) -> None:
        self._keyed = blake2b(key=blake2b(key, digest_size=64).digest(), digest_size=SEAL_BYTES, person=_PERSON)

    def of(self, content: bytes) -> bytes:
        keyed = self._keyed.copy()
        keyed.update(content)
        return keyed.digest()

    def close(self, content: bytes) -> bytes:
        return content + self.of(content)

    def open(self, message: bytes) -> bytes | None:
        """The content, None where the seal is not the cluster's."""
        content = message[:-SEAL_BYTES]
        return content if hmac.compare_digest(self.of(content), message[-SEAL_BYTES:]) else None


def write_header(header: Header, target: bytes = b"") -> bytes:
    """target: a life, for Kind.ASK only."""
    return _HEADER.pack(VERSION, *header) + target


def read_header(content: bytes) -> Header:
    """Raises ValueError."""
    if len(content) < HEADER_BYTES:
        raise ValueError("shorter than a header")
    version, kind, sender, receiver, number, probe = _HEADER.unpack_from(content)
    if version != VERSION:
        raise ValueError(f"of version {version}")
    return Header(Kind(kind), sender, receiver, number, probe)


def write_intro(life: bytes, status: NodeStatus) -> bytes:
    """Raises ValueError where a text is too long: `check_status` says so before a node begins."""
    texts = [text.encode() for text in _texts(status).values()]
    packed = b"".join(bytes((len(text),)) + text for text in texts)
    return _rumour(
        _INTRO, _STATE.pack(life, status.incarnation, _word(status.state, status.continuation_methods)) + packed
    )


def is_intro(rumour: bytes) -> bool:
    return rumour[0] == _INTRO


def check_status(status: NodeStatus) -> None:
    """Raises ValueError for a status that would not fit in a datagram, naming what is too long."""
    for name, text in _texts(status).items():
        if len(text.encode()) > _LONGEST[name]:
            raise ValueError(f"{name} {text!r} is longer than {_LONGEST[name]} bytes, which is all that peers take")


def _check_peer(status: NodeStatus) -> None:
    """Raises ValueError where a status is of no use to this node.

    Its texts fit in a line of a log; its id is a header's value, too; datagrams can be sent to its peer door.
    """
    check_status(status)
    if not all(text.isprintable() for text in _texts(status).values()):
        raise ValueError("a text with characters that cannot be printed")
    if not _WORD.fullmatch(status.instance_id) or not _FRONT.fullmatch(status.client_address):
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


def _word(state: NodeState, ways: tuple[str, ...]) -> int:
    """What changes during a life, in one byte: the state in its lower half, a bit for each known way above."""
    return _PLACES[state] | sum(_WAY_BITS.get(way, 0) for way in set(ways))


def _read_word(word: int) -> tuple[NodeState, tuple[str, ...]]:
    """Raises Unusable for a state that only another version has."""
    place = word & 0x0F
    if place >= len(_STATES):
        raise Unusable(f"state {place}")
    return _STATES[place], tuple(way for way, bit in _WAY_BITS.items() if word & bit)


def write_alive(life: bytes, incarnation: int, state: NodeState, ways: tuple[str, ...] = ()) -> bytes:
    return _rumour(_ALIVE, _STATE.pack(life, incarnation, _word(state, ways)))


def write_suspect(
    life: bytes, incarnation: int, state: NodeState, accusers: frozenset[bytes], ways: tuple[str, ...] = ()
) -> bytes:
    return _rumour(_SUSPECT, _STATE.pack(life, incarnation, _word(state, ways)) + b"".join(sorted(accusers)))


def write_dead(life: bytes, incarnation: int, by: bytes) -> bytes:
    return _rumour(_DEAD, _DEATH.pack(life, incarnation, by))


def write_accusation(rumour: Suspect | Dead) -> bytes:
    return write_suspect(*rumour) if isinstance(rumour, Suspect) else write_dead(*rumour)


def write_left(life: bytes, incarnation: int) -> bytes:
    return _rumour(_LEFT, _CLAIM.pack(life, incarnation))


def write_load(life: bytes, version: int, load: Load) -> bytes:
    """One load, to be put together by `write_loads`; figures beyond the format's range are its largest."""
    return _LOAD.pack(
        life,
        version & 0xFFFFFFFF,
        _within(load.running, 0xFFFF),
        _within(load.waiting, 0xFFFF),
        _within(load.kv_use * 0xFF, 0xFF),
        _within(load.time_per_token_s / _TENTH_MS, 0xFFFF),
        _within(load.prefill_tokens_s / _PREFILL_UNIT, 0xFFFF),
    )


def _within(figure: float, most: int) -> int:
    """The nearest whole number of the format; 0 for what is no number (the order of arguments says so)."""
    return round(min(most, max(0, figure)))


def write_loads(packed: list[bytes]) -> bytes:
    return _rumour(_LOADS, b"".join(packed))


def write_refusal(content: bytes, left_s: float) -> bytes:
    return _rumour(_REFUSAL, _REFUSED.pack(content, min(max(0, round(left_s)), 0xFFFF)))


def _rumour(kind: int, content: bytes) -> bytes:
    return _PREFACE.pack(kind, len(content)) + content


def read_rumours(content: bytes, at: int) -> Iterator[Rumour]:
    """The rumours from byte `at` on, unknown ones left out. Raises ValueError."""
    end = len(content)
    while at < end:
        if at + PREFACE_BYTES > end:
            raise ValueError("a rumour without its length")
        kind, length = _PREFACE.unpack_from(content, at)
        at += PREFACE_BYTES
        if at + length > end:
            raise ValueError("a rumour longer than its message")
        read = _READERS.get(kind)
        if read is not None:
            try:
                rumour = read(content[at : at + length])
                _check(rumour)
            except Unusable:
                pass  # the next rumour may well be of use
            except (struct.error, IndexError) as error:
                raise ValueError(f"rumour {kind}: {error}") from error
            else:
                yield rumour
        at += length


class Unusable(Exception):
    """A rumour of the right form that says what cannot be."""


def _check(rumour: Rumour) -> None:
    """Raises Unusable."""
    try:
        match rumour:
            case Intro(_, status):
                _check_peer(status)
            case Alive() | Suspect() | Dead() | Left():
                _check_incarnation(rumour.incarnation)
    except ValueError as error:
        raise Unusable(str(error)) from error


def _read_intro(content: bytes) -> Intro:
    life, incarnation, word = _STATE.unpack_from(content)
    state, ways = _read_word(word)
    at = _STATE.size
    texts = []
    for _ in _LONGEST:
        length = content[at]
        if at + 1 + length > len(content):
            raise ValueError("a text longer than its introduction")
        texts.append(_text(content[at + 1 : at + 1 + length]))
        at += 1 + length
    instance_id, peer, front, zone, instance_type, model, version = texts
    status = NodeStatus(instance_id, peer, front, state, Pool(zone, instance_type), model, incarnation, version, ways)
    return Intro(life, status)


def _text(content: bytes) -> str:
    """Raises Unusable."""
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise Unusable(str(error)) from error


def _read_alive(content: bytes) -> Alive:
    life, incarnation, word = _STATE.unpack_from(content)
    return Alive(life, incarnation, *_read_word(word))


def _read_suspect(content: bytes) -> Suspect:
    life, incarnation, word = _STATE.unpack_from(content)
    state, ways = _read_word(word)
    lives = [content[at : at + LIFE_BYTES] for at in range(_STATE.size, len(content), LIFE_BYTES)]
    accusers = frozenset(life for life in lives[:MAX_ACCUSERS] if len(life) == LIFE_BYTES)
    if not accusers:
        raise ValueError("a suspicion that is nobody's")
    return Suspect(life, incarnation, state, accusers, ways)


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
"""Life, version, and what `load_of` makes a Load of."""


def read_loads(packed: bytes) -> Iterator[PackedLoad]:
    """The loads in a rumour, in their order, LOAD_BYTES each; most are no news, so no more is made of them here."""
    return _LOAD.iter_unpack(packed)


def load_of(read: PackedLoad) -> Load:
    _, _, running, waiting, kv_use, time_per_token, prefill = read
    return Load(running, waiting, kv_use / 0xFF, time_per_token * _TENTH_MS, prefill * _PREFILL_UNIT)


_READERS: dict[int, Callable[[bytes], Rumour]] = {
    _INTRO: _read_intro,
    _ALIVE: _read_alive,
    _SUSPECT: _read_suspect,
    _DEAD: _read_dead,
    _LEFT: _read_left,
    _LOADS: _read_loads,
    _REFUSAL: _read_refusal,
}
