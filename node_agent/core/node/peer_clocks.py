"""How far peers' clocks are from this node's, by what their doors say, and whether it is this node's that is off.

A node does not trust time: it signs for a peer in that peer's own time, as the peer's door last told it
(`core/common/request_auth`), so two nodes whose clocks are hours apart serve each other as well as any two. What the
peers' clocks say together is still worth knowing: where several agree with each other and not with this node, it is
this node's clock that is wrong. Such a node goes on serving, and says that it is at risk: AWS refuses signatures that
are minutes off, so its records, checkpoints and drains may be lost, and other nodes are the better choice while there
are some.

No clock in here: instants are unix seconds of a clock that does not jump (`adapters/steady_clock`), and arguments.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from node_agent.core.common.request_auth import MAX_SKEW_S, read_clock, sign

ALLOWED_S = MAX_SKEW_S / 3
"""A peer whose clock is no further away is signed for as everybody is: its door takes that, and drift has room."""

MAX_ROUND_S = 5.0
"""An answer that took longer says too little about what time it is now."""

MAX_PEERS = 4_096
OFF_S = MAX_SKEW_S
"""From there on a clock is off; it is right again within two thirds of that."""

MIN_AGREEING = 2
"""Peers that have to agree, and more than half of all that were measured: one alone may be the one that is off."""


@dataclass(frozen=True)
class PeerClock:
    """ahead_s: of this node's; door: the peer's name for its door in this life."""

    ahead_s: float
    audience: str


class PeerClocks:
    """What is known of peers' clocks, by the addresses of their doors (host:port). key: the cluster's."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._known: dict[str, PeerClock] = {}

    def record(self, address: str, line: str, nonce: str, took_s: float, now: float) -> bool:
        """A door answered the message with that nonce, and said its time. Whether that was to be believed.

        took_s: from the message to the answer; now: when the answer came.
        """
        told = read_clock(self._key, line, nonce)
        if told is None or not 0.0 <= took_s <= MAX_ROUND_S:
            return False
        self._known.pop(address, None)
        while len(self._known) >= MAX_PEERS:
            del self._known[next(iter(self._known))]
        self._known[address] = PeerClock(told.at - (now - took_s / 2), told.audience)
        return True

    def sign(self, address: str, method: str, target: str, body: bytes, now: float, nonce: str) -> str:
        """Sign a message for a peer's door, in that door's time."""
        known = self._known.get(address)
        if known is None or abs(known.ahead_s) <= ALLOWED_S:
            return sign(self._key, method, target, body, now, nonce)
        return sign(self._key, method, target, body, now + known.ahead_s, nonce, known.audience)

    def is_off(self, address: str) -> bool:
        """Whether messages for that door need its own time."""
        known = self._known.get(address)
        return known is not None and abs(known.ahead_s) > ALLOWED_S

    def ahead_s(self, address: str) -> float | None:
        """How far a peer's clock is ahead of this node's; None where that was not measured."""
        known = self._known.get(address)
        return None if known is None else known.ahead_s


@dataclass(frozen=True)
class OwnClock:
    """off_s: how far this node's clock is ahead of what most peers say; agreeing: of how many (`measured`)."""

    off_s: float
    agreeing: int
    measured: int
    is_off: bool

    def __str__(self) -> str:
        return f"this node's clock is off by {self.off_s:+.1f} s, as {self.agreeing} of {self.measured} peers have it"


RIGHT = OwnClock(0.0, 0, 0, is_off=False)


def judge_own_clock(ahead_s: Iterable[float], wall_ahead_s: float, before: OwnClock) -> OwnClock:
    """Whether this node's clock is off.

    ahead_s: of each measured peer's clock, of this node's steady one; wall_ahead_s: how far the wall clock has moved
    away from the steady one since; before: the last judgement.
    """
    values = sorted(ahead_s, key=abs)
    if not values:
        return RIGHT
    by_size = sorted(values)
    middle = min(by_size[(len(by_size) - 1) // 2], by_size[len(by_size) // 2], key=abs)
    agreeing = sum(abs(value - middle) <= ALLOWED_S for value in values)
    off_s = wall_ahead_s - middle
    bound_s = OFF_S * 2 / 3 if before.is_off else OFF_S
    certain = agreeing >= MIN_AGREEING and 2 * agreeing > len(values)
    return OwnClock(off_s, agreeing, len(values), is_off=certain and abs(off_s) > bound_s)
