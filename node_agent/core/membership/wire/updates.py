"""Updates: what a message carries of nodes, loads and refusals."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import NamedTuple

from node_agent.contract.states import NodeState
from node_agent.core.membership.suspicion import MAX_SUSPECTORS
from node_agent.core.membership.wire.loads import LOAD_BYTES
from node_agent.core.membership.wire.messages import BOOT_ID_BYTES
from node_agent.core.membership.wire.statuses import MAX_TEXT_BYTES, check_incarnation, check_peer, texts_of
from node_agent.core.node.status import CONTINUATION_METHODS, NodeStatus, Pool
from node_agent.core.openai.request_digest import DIGEST_BYTES

_UPDATE_HEADER = struct.Struct(">BH")
UPDATE_HEADER_BYTES = _UPDATE_HEADER.size
_CLAIM = struct.Struct(">6sQ")
_STATE = struct.Struct(">6sQB")
_DEATH = struct.Struct(">6sQ6s")
_DEADLINE = struct.Struct(">I")
_LAST_DEADLINE = 2**32 - 1
_USAGE = struct.Struct(">6sI")
_REFUSED = struct.Struct(f">{DIGEST_BYTES}sH")
_STATES = tuple(NodeState)
_STATE_CODES = {state: order_index for order_index, state in enumerate(_STATES)}
_METHOD_BITS = {method: 0x10 << order_index for order_index, method in enumerate(CONTINUATION_METHODS)}


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
    deadline: int = 0


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
    """The loads of several nodes, still packed: `wire.loads` reads them."""

    packed: bytes


class Refusal(NamedTuple):
    """Requests of this content are refused for so many more seconds (`core/failure/crash_suspects`)."""

    content: bytes
    left_s: int


class KeyUsage(NamedTuple):
    """What a node reports of keys, still packed (`wire.key_usage`). version: orders the reports of a boot id."""

    boot_id: bytes
    version: int
    packed: bytes


Update = Intro | Alive | Suspect | Dead | Left | Loads | Refusal | KeyUsage

_INTRO, _ALIVE, _SUSPECT, _DEAD, _LEFT, _LOADS, _REFUSAL, _KEY_USAGE = 1, 2, 3, 4, 5, 6, 7, 8


def write_intro(boot_id: bytes, status: NodeStatus) -> bytes:
    """Write an introduction. Raises ValueError where a text is too long; `statuses.check_status` names it."""
    texts = [text.encode() for text in texts_of(status).values()]
    packed = b"".join(bytes((len(text),)) + text for text in texts)
    return _frame(
        _INTRO,
        _STATE.pack(boot_id, status.incarnation, _pack_state(status.state, status.continuation_methods))
        + packed
        + _pack_deadline(status.deadline),
    )


def is_intro(update: bytes) -> bool:
    """Return whether an encoded update, which is not empty, is an introduction."""
    return update[0] == _INTRO


def write_alive(
    boot_id: bytes,
    incarnation: int,
    state: NodeState,
    continuation_methods: tuple[str, ...] = (),
    deadline: int = 0,
) -> bytes:
    """Encode an Alive update; a method that is not in CONTINUATION_METHODS is left out. deadline: as in NodeStatus."""
    word = _pack_state(state, continuation_methods)
    return _frame(_ALIVE, _STATE.pack(boot_id, incarnation, word) + _pack_deadline(deadline))


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


def write_loads(packed: list[bytes]) -> bytes:
    """Encode the loads of several nodes as one update. packed: each as `write_load` writes it."""
    return _frame(_LOADS, b"".join(packed))


def write_refusal(content: bytes, left_s: float) -> bytes:
    """Encode a Refusal. content: a digest of DIGEST_BYTES; left_s: rounded to whole seconds, at most 0xFFFF."""
    return _frame(_REFUSAL, _REFUSED.pack(content, min(max(0, round(left_s)), 0xFFFF)))


def write_key_usage_update(boot_id: bytes, version: int, packed: bytes) -> bytes:
    """Encode a KeyUsage. packed: as `wire.key_usage` writes it."""
    return _frame(_KEY_USAGE, _USAGE.pack(boot_id, version & 0xFFFFFFFF) + packed)


def _frame(kind: int, content: bytes) -> bytes:
    return _UPDATE_HEADER.pack(kind, len(content)) + content


def _pack_state(state: NodeState, continuation_methods: tuple[str, ...]) -> int:
    """Pack what changes under a boot id into one byte: the state in its lower half, a bit per known method above."""
    return _STATE_CODES[state] | sum(_METHOD_BITS.get(method, 0) for method in set(continuation_methods))


def _pack_deadline(deadline: int) -> bytes:
    """Pack the deadline, for the end of an update: nothing for 0. Nodes of a version without it ignore these bytes."""
    return _DEADLINE.pack(min(deadline, _LAST_DEADLINE)) if deadline > 0 else b""


def _unpack_deadline(content: bytes, at: int) -> int:
    """Unpack the deadline at the end of an update; 0 where it has none."""
    return int(_DEADLINE.unpack_from(content, at)[0]) if len(content) >= at + _DEADLINE.size else 0


def _unpack_state(word: int) -> tuple[NodeState, tuple[str, ...]]:
    """Unpack the byte of `_pack_state`. Raises _UnusableUpdate for a state that only another version has."""
    order_index = word & 0x0F
    if order_index >= len(_STATES):
        raise _UnusableUpdate(f"state {order_index}")
    return _STATES[order_index], tuple(method for method, bit in _METHOD_BITS.items() if word & bit)


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
                check_peer(status)
            case Alive() | Suspect() | Dead() | Left():
                check_incarnation(update.incarnation)
    except ValueError as error:
        raise _UnusableUpdate(str(error)) from error


def _read_intro(content: bytes) -> Intro:
    boot_id, incarnation, word = _STATE.unpack_from(content)
    state, continuation_methods = _unpack_state(word)
    at = _STATE.size
    texts = []
    for _ in MAX_TEXT_BYTES:
        length = content[at]
        if at + 1 + length > len(content):
            raise ValueError("a text longer than its introduction")
        texts.append(_text(content[at + 1 : at + 1 + length]))
        at += 1 + length
    instance_id, peer, front, zone, instance_type, model, version, public_key = texts
    status = NodeStatus(
        instance_id, peer, front, state, Pool(zone, instance_type), model, incarnation, version, continuation_methods,
        public_key, _unpack_deadline(content, at),
    )  # fmt: skip
    return Intro(boot_id, status)


def _text(content: bytes) -> str:
    """Decode a text. Raises _UnusableUpdate."""
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise _UnusableUpdate(str(error)) from error


def _read_alive(content: bytes) -> Alive:
    boot_id, incarnation, word = _STATE.unpack_from(content)
    return Alive(boot_id, incarnation, *_unpack_state(word), _unpack_deadline(content, _STATE.size))


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


def _read_key_usage(content: bytes) -> KeyUsage:
    boot_id, version = _USAGE.unpack_from(content)
    return KeyUsage(boot_id, version, content[_USAGE.size :])


def _read_loads(content: bytes) -> Loads:
    if len(content) % LOAD_BYTES:
        raise ValueError("half a load")
    return Loads(content)


_READERS: dict[int, Callable[[bytes], Update]] = {
    _INTRO: _read_intro,
    _ALIVE: _read_alive,
    _SUSPECT: _read_suspect,
    _DEAD: _read_dead,
    _LEFT: _read_left,
    _LOADS: _read_loads,
    _REFUSAL: _read_refusal,
    _KEY_USAGE: _read_key_usage,
}
