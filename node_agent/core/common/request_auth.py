"""Who may knock at a peer door: every message carries an HMAC of the cluster's key, a time and a nonce.

A message is refused when its signature is wrong, when it is older or newer than the allowed skew, or when its nonce
was seen before within that time: a recording of yesterday is worth nothing, and neither is one of a second ago.

Only the receiver's clock decides what is old. A sender with another clock learns the receiver's
(`core/node/peer_clocks`) and signs in that time. Such a stamp names the door that it is for, one agent's life, so that
what is fresh by a clock that runs ahead is worth nothing at any other door, nor at the same one after a restart:

    v1 MILLISECONDS NONCE SIGNATURE           at any door, within MAX_SKEW_S of its clock
    v2 MILLISECONDS DOOR NONCE SIGNATURE      at that door only

A door tells its time where it refuses a message that was signed rightly, and to peers that compare tables with it. What
it tells is an HMAC, too, over the nonce of the message that it answers: an old answer, or a stranger's, moves no clock.
"""

from __future__ import annotations

import hashlib
import hmac
from collections import deque
from dataclasses import dataclass

AUTH_HEADER = "x-synkti-auth"
CLOCK_HEADER = b"x-synkti-clock"
"""On a peer door's answers: its time, see `sign_clock`."""

MAX_SKEW_S = 30.0
MAX_NONCES = 200_000
"""Remembered nonces; at the bound the oldest are forgotten, still far more than a node gets in the allowed skew."""

WRONG_TIME = "too old or too new"
WRONG_AUDIENCE = "for another door"
CLOCK_ERRORS = frozenset({WRONG_TIME, WRONG_AUDIENCE})
"""Refusals after which the sender may sign again, with the door's time."""

_MAX_STAMP_DIGITS = 16


def sign(key: bytes, method: str, target: str, body: bytes, at: float, nonce: str, door: str = "") -> str:
    """The header's value: version, unix milliseconds, nonce, signature, separated by blanks.

    at: unix seconds, by the receiver's clock where it is known; door: the receiver's, which makes it a v2 stamp.
    """
    head = ("v2", str(round(at * 1000)), door, nonce) if door else ("v1", str(round(at * 1000)), nonce)
    return " ".join((*head, _signature(key, method, target, body, head)))


def nonce_of(stamp: str) -> str:
    """The nonce of a stamp that was accepted."""
    return stamp.split(" ")[-2]


def _signature(key: bytes, method: str, target: str, body: bytes, head: tuple[str, ...]) -> str:
    version, *rest = head
    said = "\n".join((version, method, target, *rest, hashlib.sha256(body).hexdigest()))
    return hmac.new(key, said.encode(), hashlib.sha256).hexdigest()


@dataclass(frozen=True)
class ReceiverClock:
    """What a door said: its time (unix seconds), and its name."""

    at: float
    audience: str


def sign_clock(key: bytes, door: str, now: float, nonce: str) -> str:
    """What a door says of its time, in answer to the message with that nonce."""
    stamp = str(round(now * 1000))
    return f"v1 {stamp} {door} {_clock_signature(key, stamp, door, nonce)}"


def read_clock(key: bytes, line: str, nonce: str) -> ReceiverClock | None:
    """What a door says of its time; None where that is not what the door of a peer says, or not in answer to this."""
    parts = line.split(" ")
    if len(parts) != 4 or parts[0] != "v1" or not _is_stamp(parts[1]):
        return None
    _, stamp, door, given = parts
    if not hmac.compare_digest(_clock_signature(key, stamp, door, nonce).encode(), given.encode()):
        return None
    return ReceiverClock(int(stamp) / 1000, door)


def _clock_signature(key: bytes, stamp: str, door: str, nonce: str) -> str:
    said = "\n".join(("clock", stamp, door, nonce))
    return hmac.new(key, said.encode(), hashlib.sha256).hexdigest()


def _is_stamp(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= _MAX_STAMP_DIGITS


class RequestVerifier:
    """Checks what knocks; remembers the nonces of the last `MAX_SKEW_S` seconds. Its clock must not jump.

    door: names this agent's door in this life, without blanks; random.
    """

    def __init__(self, key: bytes, max_nonces: int = MAX_NONCES, audience: str = "-") -> None:
        self.key = key
        self.audience = audience
        self._max = max_nonces
        self._seen: set[str] = set()
        self._order: deque[tuple[float, str]] = deque()

    def rejection_reason(self, header: str | None, method: str, target: str, body: bytes, now: float) -> str | None:
        """Why the message is refused, None where it is welcome (its nonce is used up then)."""
        *head, given = (header or "").split(" ")
        if (len(head), head[:1]) not in ((3, ["v1"]), (4, ["v2"])) or not _is_stamp(head[1]):
            return "no signature"
        expected = _signature(self.key, method, target, body, tuple(head))
        if not hmac.compare_digest(expected.encode(), given.encode()):
            return "wrong signature"
        if head[0] == "v2" and head[2] != self.audience:
            return WRONG_AUDIENCE
        if abs(now - int(head[1]) / 1000) > MAX_SKEW_S:
            return WRONG_TIME
        return self._use_up(head[-1], now)

    def signed_clock(self, header: str, now: float) -> str:
        """This door's time, for the sender of a message that was refused for one of CLOCK_HELPS."""
        return sign_clock(self.key, self.audience, now, nonce_of(header))

    def _use_up(self, nonce: str, now: float) -> str | None:
        self._forget(now)
        if nonce in self._seen:
            return "seen before"
        self._seen.add(nonce)
        self._order.append((now, nonce))
        return None

    def _forget(self, now: float) -> None:
        while self._order and (now - self._order[0][0] > 2 * MAX_SKEW_S or len(self._order) >= self._max):
            self._seen.discard(self._order.popleft()[1])
