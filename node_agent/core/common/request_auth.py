"""Authenticate requests between peers: every message has an HMAC by the cluster's key, a time and a nonce.

A message is rejected when its signature is wrong, when it is older or newer than the allowed skew, or when its nonce
was used within that time: so a recorded message is not accepted again, neither after a day nor after a second.

Only the receiver's clock decides what is old. A sender with another clock learns the receiver's
(`core/node/peer_clocks`) and signs in that time. Such a signature has an audience, one run of the receiver's agent, so
that a message that is fresh by a clock that runs ahead is valid at no other node, nor at the same one after a restart:

    v1 MILLISECONDS NONCE SIGNATURE             at any node, within MAX_SKEW_S of its clock
    v2 MILLISECONDS AUDIENCE NONCE SIGNATURE    at that audience only

A receiver sends its time where it rejects a message with a right signature, and to peers that synchronize tables with
it. Its time is signed, too, over the nonce of the message that it answers: an old answer, or another party's, changes
no clock.
"""

from __future__ import annotations

import hashlib
import hmac
from collections import deque
from dataclasses import dataclass

AUTH_HEADER = "x-synkti-auth"
CLOCK_HEADER = b"x-synkti-clock"
"""A header of the peer API's answers: its time, see `sign_clock`."""

MAX_SKEW_S = 30.0
MAX_NONCES = 200_000
"""Nonces in memory; at the bound the oldest are removed, still far more than a node receives in the allowed skew."""

WRONG_TIME = "too old or too new"
WRONG_AUDIENCE = "for another receiver"
CLOCK_ERRORS = frozenset({WRONG_TIME, WRONG_AUDIENCE})
"""Rejections after which the sender may sign again, with the receiver's time."""

_MAX_TIMESTAMP_DIGITS = 16


def sign(key: bytes, method: str, target: str, body: bytes, at: float, nonce: str, audience: str = "") -> str:
    """Return the value of AUTH_HEADER that signs a message; the module documents its two forms.

    at: unix seconds, by the receiver's clock where it is known; audience: the receiver's, which makes it a v2.
    """
    head = ("v2", str(round(at * 1000)), audience, nonce) if audience else ("v1", str(round(at * 1000)), nonce)
    return " ".join((*head, _signature(key, method, target, body, head)))


def nonce_of(header: str) -> str:
    """Return the nonce of a header that was accepted."""
    return header.split(" ")[-2]


def _signature(key: bytes, method: str, target: str, body: bytes, head: tuple[str, ...]) -> str:
    version, *rest = head
    content = "\n".join((version, method, target, *rest, hashlib.sha256(body).hexdigest()))
    return hmac.new(key, content.encode(), hashlib.sha256).hexdigest()


@dataclass(frozen=True)
class ReceiverClock:
    """A receiver's time, in unix seconds, and its audience."""

    at: float
    audience: str


def sign_clock(key: bytes, audience: str, now: float, nonce: str) -> str:
    """Sign the receiver's time, in answer to the message with that nonce."""
    time = str(round(now * 1000))
    return f"v1 {time} {audience} {_clock_signature(key, time, audience, nonce)}"


def read_clock(key: bytes, line: str, nonce: str) -> ReceiverClock | None:
    """Verify a receiver's time; None where it is not signed by a peer, or not in answer to this nonce."""
    parts = line.split(" ")
    if len(parts) != 4 or parts[0] != "v1" or not _is_timestamp(parts[1]):
        return None
    _, time, audience, given = parts
    if not hmac.compare_digest(_clock_signature(key, time, audience, nonce).encode(), given.encode()):
        return None
    return ReceiverClock(int(time) / 1000, audience)


def _clock_signature(key: bytes, time: str, audience: str, nonce: str) -> str:
    content = "\n".join(("clock", time, audience, nonce))
    return hmac.new(key, content.encode(), hashlib.sha256).hexdigest()


def _is_timestamp(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= _MAX_TIMESTAMP_DIGITS


class RequestVerifier:
    """Verifies received messages, with the nonces of the allowed skew. The caller's clock must not jump.

    audience: identifies this run of the agent; random, without blanks.
    """

    def __init__(self, key: bytes, max_nonces: int = MAX_NONCES, audience: str = "-") -> None:
        self.key = key
        self.audience = audience
        self._max = max_nonces
        self._seen: set[str] = set()
        self._order: deque[tuple[float, str]] = deque()

    def rejection_reason(self, header: str | None, method: str, target: str, body: bytes, now: float) -> str | None:
        """Return why the message is rejected; None where it is accepted, which uses its nonce up."""
        *head, given = (header or "").split(" ")
        if (len(head), head[:1]) not in ((3, ["v1"]), (4, ["v2"])) or not _is_timestamp(head[1]):
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
        """Return this receiver's signed time, for the sender of a message that was rejected by one of CLOCK_ERRORS."""
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
