"""Derive the salt of a request's prefix cache from the key of its caller.

vLLM shares the cache of a prompt's beginning among all requests with the same salt. Who measures the time to the first
token learns whether someone else has sent the same beginning (CVE-2025-46570). With a salt for each key only requests
of one key share.

The salt is part of the request from then on: it is in its journal, so that a continuation at another node has the same
one, and in the keys of its KV blocks (`core/kv/blocks`), so that moved blocks are its own.

It depends on the caller's id and on the cluster's current key, and on nothing else: all nodes derive the same, whenever
they were started, and neither another client's key nor the first and last steps of a rotation of the cluster's key
change it. When the next cluster key becomes the current one, all salts change, once: what is cached under the old ones
is computed again.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Callable
from enum import StrEnum

_MAX_KNOWN = 4_096
_DOMAIN = b"synkti cache salt\0"


class SaltMode(StrEnum):
    """Whose requests share the prefix cache."""

    SHARED = "shared"
    PER_KEY = "per-key"


class CacheSalt:
    """Derives salts. secret: returns that of the cluster's current key."""

    def __init__(self, secret: Callable[[], bytes]) -> None:
        self._secret = secret
        self._known_secret: bytes | None = None
        self._hashed = b""
        self._known: dict[str, str] = {}  # by the ids of keys, for requests without a salt of their own

    def of(self, key_id: str, own_salt: str = "") -> str:
        """Return the salt for a caller's requests.

        Args:
            key_id: the id of its key.
            own_salt: a salt that the client chose, where it may: it divides the caller's own cache further.

        Returns:
            43 characters of URL-safe base64, which vLLM accepts (at most 128, without @, / and the backslash).
        """
        if (secret := self._secret()) != self._known_secret:
            self._known_secret = secret
            self._hashed = hashlib.blake2b(secret, digest_size=32, person=b"synkti cachesalt").digest()
            self._known.clear()
        if not own_salt and (known := self._known.get(key_id)) is not None:
            return known
        mark = _DOMAIN + key_id.encode("utf-8", "replace") + b"\0" + own_salt.encode("utf-8", "replace")
        salt = base64.urlsafe_b64encode(hmac.digest(self._hashed, mark, "sha256")).decode().rstrip("=")
        if not own_salt and len(self._known) < _MAX_KNOWN:
            self._known[key_id] = salt
        return salt
