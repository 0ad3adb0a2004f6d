"""Measure the offsets of peers' clocks, and decide whether this node's own clock is off.

A node does not trust time: it signs for a peer in that peer's own time, as the peer last sent it
(`core/node/request_signer`), so two nodes whose clocks are hours apart serve each other as well as any two. The peers'
clocks together are still evidence: where several agree with each other and not with this node, this node's clock is
wrong. Such a node continues to serve, and publishes that it is at risk: AWS refuses signatures that are minutes off, so
its records, checkpoints and drains may be lost, and other nodes are the better choice while there are some.

No clock in here: instants are arguments, unix seconds of a clock that does not jump (`adapters/steady_clock`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from node_agent.core.common.request_auth import MAX_SKEW_S, ReceiverClock

ALLOWED_S = MAX_SKEW_S / 3
"""A message for a peer whose clock is no further away is signed in this node's time: the peer accepts it, with margin
for drift."""

MAX_ROUND_S = 5.0
"""An answer that took longer is too inexact about the time now."""

MAX_PEERS = 4_096
OFF_S = MAX_SKEW_S
"""A clock is off from that offset on; it is right again within two thirds of it."""

MIN_AGREEING = 2
"""Peers that have to agree, and more than half of all that were measured: a single peer may itself be off."""


@dataclass(frozen=True)
class PeerClock:
    """A peer's clock."""

    ahead_s: float
    """Its offset from this node's."""

    run: str
    """The boot id of the peer's agent when it was measured."""


class PeerClocks:
    """The measured clocks of peers, by the addresses of their APIs (host:port)."""

    def __init__(self) -> None:
        self._known: dict[str, PeerClock] = {}

    def record(self, address: str, clock: ReceiverClock, took_s: float, now: float) -> bool:
        """Record a peer's time, from its answer to a message.

        Args:
            address: of the peer's API, host:port.
            clock: from the answer.
            took_s: seconds from the message to the answer.
            now: unix seconds when the answer arrived.

        Returns:
            Whether it was recorded: not where the answer took longer than MAX_ROUND_S.
        """
        if not 0.0 <= took_s <= MAX_ROUND_S:
            return False
        self._known.pop(address, None)
        while len(self._known) >= MAX_PEERS:
            del self._known[next(iter(self._known))]
        self._known[address] = PeerClock(clock.at - (now - took_s / 2), clock.run)
        return True

    def run_at(self, address: str) -> str | None:
        """Return the boot id that a peer had when it was last measured."""
        known = self._known.get(address)
        return None if known is None else known.run

    def time_at(self, address: str, now: float) -> float:
        """Return the time to sign with for a peer, in unix seconds: its own where that differs from this node's.

        now: this node's unix seconds.
        """
        known = self._known.get(address)
        return now if known is None or abs(known.ahead_s) <= ALLOWED_S else now + known.ahead_s

    def ahead_s(self, address: str) -> float | None:
        """Return how far a peer's clock is ahead of this node's, in seconds; None where that was not measured."""
        known = self._known.get(address)
        return None if known is None else known.ahead_s


@dataclass(frozen=True)
class OwnClock:
    """The verdict on this node's clock. off_s: how far it is ahead of most peers'; agreeing: peers, of `measured`."""

    off_s: float
    agreeing: int
    measured: int
    is_off: bool

    def __str__(self) -> str:
        return f"this node's clock is off by {self.off_s:+.1f} s, as {self.agreeing} of {self.measured} peers have it"


RIGHT = OwnClock(0.0, 0, 0, is_off=False)


def judge_own_clock(ahead_s: Iterable[float], wall_ahead_s: float, before: OwnClock) -> OwnClock:
    """Decide whether this node's clock is off.

    Args:
        ahead_s: how far each measured peer's clock is ahead of this node's steady one, in seconds.
        wall_ahead_s: how far this node's wall clock is ahead of its steady one, in seconds.
        before: the last verdict, since a clock that is off counts as right again only within a smaller offset.

    Returns:
        The verdict; RIGHT where no peer was measured.
    """
    values = sorted(ahead_s, key=abs)
    if not values:
        return RIGHT
    by_size = sorted(values)
    median = min(by_size[(len(by_size) - 1) // 2], by_size[len(by_size) // 2], key=abs)
    agreeing = sum(abs(value - median) <= ALLOWED_S for value in values)
    off_s = wall_ahead_s - median
    bound_s = OFF_S * 2 / 3 if before.is_off else OFF_S
    certain = agreeing >= MIN_AGREEING and 2 * agreeing > len(values)
    return OwnClock(off_s, agreeing, len(values), is_off=certain and abs(off_s) > bound_s)
