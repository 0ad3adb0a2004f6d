"""Who may knock at a peer door: every message carries an HMAC of the cluster's key, a time and a nonce.

A message is refused when its signature is wrong, when it is older or newer than the allowed skew, or when its nonce
was seen before within that time: a recording of yesterday is worth nothing, and neither is one of a second ago.
"""

from __future__ import annotations

import hashlib
import hmac
from collections import deque

AUTH_HEADER = "x-synkti-auth"
MAX_SKEW_S = 30.0
MAX_NONCES = 200_000
"""Remembered nonces; at the bound the oldest are forgotten, still far more than a node gets in the allowed skew."""

_VERSION = "v1"


def sign(key: bytes, method: str, target: str, body: bytes, at: float, nonce: str) -> str:
    """The header's value: version, unix milliseconds, nonce, signature, separated by blanks."""
    stamp = str(round(at * 1000))
    return f"{_VERSION} {stamp} {nonce} {_signature(key, method, target, body, stamp, nonce)}"


def _signature(key: bytes, method: str, target: str, body: bytes, stamp: str, nonce: str) -> str:
    said = "\n".join((_VERSION, method, target, stamp, nonce, hashlib.sha256(body).hexdigest()))
    return hmac.new(key, said.encode(), hashlib.sha256).hexdigest()


class Doorkeeper:
    """Checks what knocks; remembers the nonces of the last `MAX_SKEW_S` seconds."""

    def __init__(self, key: bytes, max_nonces: int = MAX_NONCES) -> None:
        self.key = key
        self._max = max_nonces
        self._seen: set[str] = set()
        self._order: deque[tuple[float, str]] = deque()

    def refusal(self, header: str | None, method: str, target: str, body: bytes, now: float) -> str | None:
        """Why the message is refused, None where it is welcome (its nonce is used up then)."""
        parts = (header or "").split(" ")
        if len(parts) != 4 or parts[0] != _VERSION or not parts[1].isdigit():
            return "no signature"
        _, stamp, nonce, given = parts
        expected = _signature(self.key, method, target, body, stamp, nonce)
        if not hmac.compare_digest(expected.encode(), given.encode()):
            return "wrong signature"
        if abs(now - int(stamp) / 1000) > MAX_SKEW_S:
            return "too old or too new"
        self._forget(now)
        if nonce in self._seen:
            return "seen before"
        self._seen.add(nonce)
        self._order.append((now, nonce))
        return None

    def _forget(self, now: float) -> None:
        while self._order and (now - self._order[0][0] > 2 * MAX_SKEW_S or len(self._order) >= self._max):
            self._seen.discard(self._order.popleft()[1])
