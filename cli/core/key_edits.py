"""Edit the document of clients' keys: add, revoke, rotate. Each edit returns a new document."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

from node_agent.contract.timestamps import format_instant
from node_agent.core.access.caller import KeyLimits, Scope
from node_agent.core.access.client_key import ClientKey, hash_key, is_key_id
from node_agent.core.access.key_document import (
    MAX_DOCUMENT_BYTES,
    KeyDocument,
    KeyEntry,
    PreviousSecret,
    is_key_name,
)

DEFAULT_SCOPES = (Scope.INFERENCE, Scope.FLEET)
"""What an application with `synkti_client` or the gateway needs: answers, and the addresses of nodes."""

FORGOTTEN_AFTER_S = 30 * 24 * 3600.0
"""How long a key that is not in force stays in the document, so that its holder receives the reason."""

MAX_DURATION_S = 3650 * 24 * 3600.0
_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 24 * 3600}
_DURATION = re.compile(r"([0-9]{1,9})([smhd])")


class EditRefused(ValueError):
    """The document cannot be edited so. advice: what to do."""

    def __init__(self, message: str, advice: str = "") -> None:
        super().__init__(message)
        self.advice = advice


@dataclass(frozen=True)
class KeyRequest:
    """A key to make. expires: unix seconds, None for never."""

    name: str
    scopes: frozenset[Scope]
    limits: KeyLimits
    expires: float | None = None


def parse_duration(text: str) -> float:
    """Parse a duration such as 30d, 12h, 90m or 45s, in seconds. Raises ValueError."""
    found = _DURATION.fullmatch(text)
    seconds = int(found[1]) * _UNITS_S[found[2]] if found else 0
    if not 0 < seconds <= MAX_DURATION_S:
        raise ValueError(f"{text!r} is no duration from 1s to 3650d, such as 30d, 12h, 90m or 45s")
    return float(seconds)


def check_request(request: KeyRequest) -> None:
    """Check what a key is made from. Raises EditRefused."""
    if not is_key_name(request.name):
        raise EditRefused(
            f"{request.name!r} is no key's name", "1-64 letters, digits, `.`, `_`, `@`, `-`; a letter or digit first"
        )
    if is_key_id(request.name):
        raise EditRefused(f"{request.name!r} has the form of a key's id", "choose a name that is none")


def add_key(document: KeyDocument, request: KeyRequest, key: ClientKey, now: float) -> KeyDocument:
    """Add a key.

    Args:
        document: all keys.
        request: what the key may do.
        key: the key, from random bytes.
        now: unix seconds.

    Returns:
        The document with the key.

    Raises:
        EditRefused: a key in force has the name, or the document is full.
    """
    check_request(request)
    if any(entry.name == request.name and entry.is_in_force(now) for entry in document.keys):
        raise EditRefused(
            f"there is a key {request.name!r} in force",
            "synkti keys rotate gives it a new secret; or choose another name",
        )
    entry = KeyEntry(
        key.key_id, request.name, hash_key(document.pepper, key), request.scopes, now, request.limits, request.expires
    )
    return _checked(document, (*document.keys, entry), now)


def find_key(document: KeyDocument, name: str, now: float) -> KeyEntry:
    """Find a key by its id, or by its name among those in force. Raises EditRefused where there is none."""
    by_id = next((entry for entry in document.keys if entry.key_id == name), None)
    found = by_id or next((entry for entry in document.keys if entry.name == name and entry.is_in_force(now)), None)
    if found is None:
        raise EditRefused(f"no key in force has the name or the id {name!r}", "synkti keys list has all keys")
    return found


def revoke_key(document: KeyDocument, name: str, now: float) -> tuple[KeyDocument, KeyEntry]:
    """Revoke a key. Returns the document and the revoked entry. Raises EditRefused where there is no such key."""
    found = find_key(document, name, now)
    if found.revoked is not None:
        raise EditRefused(f"the key {found.name} ({found.key_id}) is revoked already")
    revoked = replace(found, revoked=now, previous=None)
    return _checked(document, _replaced(document, revoked), now), revoked


def rotate_key(
    document: KeyDocument, name: str, new: ClientKey, now: float, overlap_s: float
) -> tuple[KeyDocument, KeyEntry]:
    """Give a key a new secret under its id: its limits, its name and its streams stay.

    Args:
        document: all keys.
        name: the key's name or id.
        new: the key with the new secret, and the same id.
        now: unix seconds.
        overlap_s: how long the older secret is accepted beside the new one, in seconds.

    Returns:
        The document, and the new entry.

    Raises:
        EditRefused: there is no such key in force.
    """
    found = find_key(document, name, now)
    if not found.is_in_force(now):
        raise EditRefused(
            f"the key {found.name} ({found.key_id}) is not in force", "synkti keys create makes a new one"
        )
    previous = PreviousSecret(found.digest, now + overlap_s) if overlap_s else None
    rotated = replace(found, digest=hash_key(document.pepper, new), previous=previous)
    return _checked(document, _replaced(document, rotated), now), rotated


def _replaced(document: KeyDocument, entry: KeyEntry) -> tuple[KeyEntry, ...]:
    return tuple(entry if each.key_id == entry.key_id else each for each in document.keys)


def _checked(document: KeyDocument, keys: Collection[KeyEntry], now: float) -> KeyDocument:
    """Return a document of these keys, without those that ended long ago. Raises EditRefused where it is too large."""
    made = KeyDocument(document.pepper, tuple(entry for entry in keys if not _is_forgotten(entry, now)))
    if len(made.to_bytes()) > MAX_DOCUMENT_BYTES:
        raise EditRefused(
            f"the document has {len(document.keys)} keys, and no room for another",
            "revoke keys; 30 days later they leave the document",
        )
    return made


def _is_forgotten(entry: KeyEntry, now: float) -> bool:
    ended = [at for at in (entry.revoked, entry.expires) if at is not None]
    return bool(ended) and min(ended) + FORGOTTEN_AFTER_S <= now


def key_status(entry: KeyEntry, now: float) -> str:
    """Return `in force`, `expired`, `revoked`, or that two secrets are accepted. now: unix seconds."""
    if entry.revoked is not None:
        return "revoked"
    if not entry.is_in_force(now):
        return "expired"
    if entry.previous is not None and now < entry.previous.until:
        return "in force, with two secrets"
    return "in force"


def describe_key(entry: KeyEntry, now: float) -> dict[str, Any]:
    """Return what `list` prints of a key: nothing secret, and no hash. now: unix seconds."""
    limits = entry.limits
    return {
        "id": entry.key_id,
        "name": entry.name,
        "status": key_status(entry, now),
        "scopes": [scope.value for scope in Scope if scope in entry.scopes],
        "requests_per_minute": limits.requests_per_minute,
        "tokens_per_minute": limits.tokens_per_minute,
        "streams": limits.streams,
        "created": format_instant(entry.created),
        "expires": None if entry.expires is None else format_instant(entry.expires),
        "revoked": None if entry.revoked is None else format_instant(entry.revoked),
        "second_secret_until": None if entry.previous is None else format_instant(entry.previous.until),
    }


TABLE_HEADERS = ("name", "id", "status", "scopes", "requests/min", "tokens/min", "streams", "created", "expires")
DROPPABLE = ("created", "expires", "streams", "requests/min", "tokens/min", "scopes")
"""Columns that a narrow terminal leaves out, the least important first."""


def table_row(entry: KeyEntry, now: float) -> tuple[str, ...]:
    """Return a row of `list`'s table. now: unix seconds."""
    limits = [
        "" if limit is None else str(limit)
        for limit in (entry.limits.requests_per_minute, entry.limits.tokens_per_minute, entry.limits.streams)
    ]
    scopes = ",".join(scope.value for scope in Scope if scope in entry.scopes)
    ends = "never" if entry.expires is None else format_instant(entry.expires)[:10]
    created = format_instant(entry.created)[:10]
    return (entry.name, entry.key_id, key_status(entry, now), scopes, *limits, created, ends)
