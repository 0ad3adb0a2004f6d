"""Look a client's key up among the keys in force.

Rules kept here:

* a key is found by its id; its hash is then compared in constant time. A key with an unknown id costs the same hash and
  the same comparisons, so a response's time does not show which ids exist;
* only whoever has the secret learns that a key has expired or was revoked.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from enum import Enum

from node_agent.core.access.caller import Caller
from node_agent.core.access.client_key import HASH_CHARACTERS, ClientKey, hash_key
from node_agent.core.access.key_document import KeyDocument, KeyEntry

_NO_DIGEST = bytes(HASH_CHARACTERS // 2)


class KeyRefusal(Enum):
    """Why a key is not accepted. The values are the labels of the metric."""

    UNKNOWN = "unknown"
    EXPIRED = "expired"
    REVOKED = "revoked"


@dataclass(frozen=True, slots=True)
class _Known:
    entry: KeyEntry
    caller: Caller
    previous_digest: bytes


class KeyRing:
    """The keys of one document, by id."""

    def __init__(self, document: KeyDocument) -> None:
        self._pepper = document.pepper
        self._known = {entry.key_id: _known(entry) for entry in document.keys}

    def count_in_force(self, now: float) -> int:
        """Return how many keys are accepted. now: unix seconds."""
        return sum(known.entry.is_in_force(now) for known in self._known.values())

    def identify(self, key: ClientKey, now: float) -> Caller | KeyRefusal:
        """Return the caller that a key belongs to, or why it is refused. now: unix seconds."""
        digest = hash_key(self._pepper, key)
        known = self._known.get(key.key_id)
        current, previous = (known.entry.digest, known.previous_digest) if known else (_NO_DIGEST, _NO_DIGEST)
        is_current, is_previous = hmac.compare_digest(digest, current), hmac.compare_digest(digest, previous)
        if known is None or not (is_current or is_previous):
            return KeyRefusal.UNKNOWN
        entry = known.entry
        if entry.revoked is not None:
            return KeyRefusal.REVOKED
        if not entry.is_in_force(now):
            return KeyRefusal.EXPIRED
        if is_previous and not is_current and (entry.previous is None or now >= entry.previous.until):
            return KeyRefusal.EXPIRED
        return known.caller


def _known(entry: KeyEntry) -> _Known:
    caller = Caller(entry.key_id, entry.name, entry.scopes, entry.limits)
    return _Known(entry, caller, _NO_DIGEST if entry.previous is None else entry.previous.digest)
