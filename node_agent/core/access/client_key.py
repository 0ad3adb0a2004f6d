"""Make, parse and hash the keys of clients: `sk-synkti-<id>-<secret>`, both in hexadecimal digits.

The id is public: it is in logs, in journals and in `synkti keys list`. The secret has 32 random bytes, so no guess and
no dictionary finds it; what is stored is an HMAC of the whole key. The id is a part of what is hashed: a stored hash is
of no use under another id.
"""

from __future__ import annotations

import hmac
import re
from dataclasses import dataclass, field

KEY_PREFIX = "sk-synkti-"
ID_BYTES = 6
SECRET_BYTES = 32
HASH_CHARACTERS = 64
"""Of SHA-256 in hexadecimal digits."""

_ID = re.compile(r"[0-9a-f]{12}")
_KEY = re.compile(rb"sk-synkti-([0-9a-f]{12})-[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class ClientKey:
    """A key as a client sends it.

    Attributes:
        key_id: Its public part.
        text: The whole key. It never reaches a log, an engine or a peer, so it is in no representation.
    """

    key_id: str
    text: bytes = field(repr=False)


def make_key(id_bytes: bytes, secret: bytes) -> ClientKey:
    """Make a key from random bytes: ID_BYTES and SECRET_BYTES of them. Raises ValueError for another number."""
    if len(id_bytes) != ID_BYTES:
        raise ValueError(f"a key's id has {ID_BYTES} bytes")
    return make_secret(id_bytes.hex(), secret)


def make_secret(key_id: str, secret: bytes) -> ClientKey:
    """Make a key with a known id, for a rotation. Raises ValueError for another number of bytes than SECRET_BYTES."""
    if len(secret) != SECRET_BYTES:
        raise ValueError(f"a key's secret has {SECRET_BYTES} bytes")
    return ClientKey(key_id, f"{KEY_PREFIX}{key_id}-{secret.hex()}".encode())


def parse_key(text: bytes) -> ClientKey | None:
    """Parse what a client sent as its key; None where it has not the form of one."""
    found = _KEY.fullmatch(text)
    return None if found is None else ClientKey(found[1].decode(), text)


def is_key_id(text: object) -> bool:
    """Return whether a value has the form of a key's id."""
    return isinstance(text, str) and _ID.fullmatch(text) is not None


def hash_key(pepper: bytes, key: ClientKey) -> bytes:
    """Return HMAC-SHA256 of the whole key, 32 bytes. pepper: the document's (`core/access/key_document`)."""
    return hmac.digest(pepper, key.text, "sha256")
