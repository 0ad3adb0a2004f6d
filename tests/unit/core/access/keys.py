"""Key documents for tests: a pepper, and keys that any test can send."""

from __future__ import annotations

from node_agent.core.access.caller import NO_LIMITS, KeyLimits, Scope
from node_agent.core.access.client_key import ClientKey, hash_key, make_key
from node_agent.core.access.key_document import KeyDocument, KeyEntry, PreviousSecret

PEPPER = b"p" * 64
NOW = 1_800_000_000.0
ALL_SCOPES = frozenset(Scope)


def key_number(number: int) -> ClientKey:
    """Return one of some keys; each number has its own id and secret."""
    return make_key(bytes([number]) * 6, bytes([number]) * 32)


def entry(
    key: ClientKey,
    name: str = "chat",
    *scopes: Scope,
    limits: KeyLimits = NO_LIMITS,
    expires: float | None = None,
    revoked: float | None = None,
    previous: PreviousSecret | None = None,
) -> KeyEntry:
    """Return the entry of a key; without scopes it has all."""
    digest = hash_key(PEPPER, key)
    may = frozenset(scopes) or ALL_SCOPES
    return KeyEntry(key.key_id, name, digest, may, NOW - 60, limits, expires, revoked, previous)


def document(*entries: KeyEntry) -> KeyDocument:
    """Return a document of these entries."""
    return KeyDocument(PEPPER, entries)
