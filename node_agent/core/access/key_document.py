"""Parse and write the key document: the clients' keys of a cluster, as a secret or a file holds them.

    {"version": 1, "pepper": "...", "keys": [
        {"id": "4f1c09d2a7be", "name": "chat", "hash": "<64 hex digits>", "scopes": ["inference", "fleet"],
         "created": "2026-11-30T10:00:00.000Z", "expires": "...", "revoked": "...",
         "limits": {"requests_per_minute": 60, "tokens_per_minute": 100000, "streams": 8},
         "previous": {"hash": "<64 hex digits>", "until": "..."}}]}

Rules kept here:

* a document is used as a whole or not at all: an entry that cannot be parsed is no revocation, and an unknown field may
  be a restriction. Whoever reads it then keeps the last one that could be parsed;
* the hashes are keyed with the pepper of the same document. The secrets are random, so the pepper does not protect them
  from guesses. It makes hashes of two clusters incomparable, and hashes alone (on a screen, in a diff) worthless. It
  lies in the document because whoever may change the hashes can let anybody in without it, and because a second secret
  would have to be read, stored and lost together with the first;
* no message about a document has a part of it, but names and positions.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from node_agent.contract.client_keys import VERSION
from node_agent.contract.timestamps import format_instant, parse_instant
from node_agent.core.access.caller import NO_LIMITS, KeyLimits, Scope
from node_agent.core.access.client_key import HASH_CHARACTERS, is_key_id

MAX_DOCUMENT_BYTES = 64 * 1024
"""Secrets Manager's limit of a secret's value: about 250 keys."""

MIN_PEPPER_CHARACTERS = 32
MAX_PEPPER_CHARACTERS = 256
MAX_NAME_CHARACTERS = 64
MAX_LIMIT = 10**12
"""Above any real limit; a larger number is a typing error."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_HASH = re.compile(rf"[0-9a-f]{{{HASH_CHARACTERS}}}")
_LIMITS = ("requests_per_minute", "tokens_per_minute", "streams")
_REQUIRED = frozenset({"id", "name", "hash", "scopes", "created"})
_FIELDS = _REQUIRED | {"expires", "revoked", "limits", "previous"}


@dataclass(frozen=True, slots=True)
class PreviousSecret:
    """The secret that a rotation replaced.

    Attributes:
        digest: The keyed hash of the key with this secret.
        until: When it ends to be accepted, in unix seconds.
    """

    digest: bytes = field(repr=False)
    until: float


@dataclass(frozen=True, slots=True)
class KeyEntry:
    """One key of the document. Instants are unix seconds.

    Attributes:
        key_id: The public part of the key.
        name: The operator's name for it.
        digest: The keyed hash of the key (`hash_key`).
        scopes: What it may do.
        created: When it was made.
        limits: How much of it.
        expires: From when on it is refused, None for never.
        revoked: When it was revoked, None where it was not.
        previous: The secret before the last rotation, None where there was no rotation.
    """

    key_id: str
    name: str
    digest: bytes = field(repr=False)
    scopes: frozenset[Scope]
    created: float
    limits: KeyLimits = NO_LIMITS
    expires: float | None = None
    revoked: float | None = None
    previous: PreviousSecret | None = None

    def is_in_force(self, now: float) -> bool:
        """Return whether the key is accepted. now: unix seconds."""
        return self.revoked is None and (self.expires is None or now < self.expires)


@dataclass(frozen=True, slots=True)
class KeyDocument:
    """All keys of a cluster.

    Attributes:
        pepper: The key of the hashes.
        keys: Each with an id of its own.
    """

    pepper: bytes = field(repr=False)
    keys: tuple[KeyEntry, ...] = ()

    def to_bytes(self) -> bytes:
        """Serialize the document; `parse_key_document` parses it."""
        entries = [_entry_to_json(entry) for entry in self.keys]
        return orjson.dumps({"version": VERSION, "pepper": self.pepper.decode(), "keys": entries})


def is_key_name(text: object) -> bool:
    """Return whether a key may have this name: 1-64 letters, digits, `.`, `_`, `@`, `-`; a letter or digit first."""
    return isinstance(text, str) and _NAME.fullmatch(text) is not None


def parse_key_document(raw: bytes) -> KeyDocument:
    """Parse a key document. Raises ValueError with what is wrong, and without any part of its secrets."""
    if len(raw) > MAX_DOCUMENT_BYTES:
        raise ValueError(f"it has {len(raw)} bytes, and a key document has {MAX_DOCUMENT_BYTES} at most")
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError:
        raise ValueError("it is no JSON") from None
    if not isinstance(value, dict) or value.get("version") != VERSION:
        raise ValueError(f"it is no key document of version {VERSION}")
    if unknown := sorted(value.keys() - {"version", "pepper", "keys"}):
        raise ValueError(f"unknown fields: {', '.join(unknown)[:200]}")
    pepper, entries = value.get("pepper"), value.get("keys")
    if not isinstance(pepper, str) or not MIN_PEPPER_CHARACTERS <= len(pepper) <= MAX_PEPPER_CHARACTERS:
        raise ValueError(f"its pepper has not {MIN_PEPPER_CHARACTERS}-{MAX_PEPPER_CHARACTERS} characters")
    if not pepper.isascii():
        raise ValueError("its pepper is not ASCII")
    if not isinstance(entries, list):
        raise ValueError("its keys are no list")
    keys = tuple(_parse_numbered(number, entry) for number, entry in enumerate(entries, 1))
    if len({entry.key_id for entry in keys}) != len(keys):
        raise ValueError("two of its keys have one id")
    return KeyDocument(pepper.encode(), keys)


def _parse_numbered(number: int, value: object) -> KeyEntry:
    try:
        return _parse_entry(value)
    except ValueError as error:
        raise ValueError(f"key {number}: {error}") from None


def _parse_entry(value: object) -> KeyEntry:
    fields = _object(value, _FIELDS, "it")
    if missing := sorted(_REQUIRED - fields.keys()):
        raise ValueError(f"it has no {missing[0]}")
    if not is_key_id(fields["id"]):
        raise ValueError("its id has not 12 hexadecimal digits")
    if not is_key_name(fields["name"]):
        raise ValueError("its name has other characters than letters, digits, `.`, `_`, `@`, `-`, or is too long")
    return KeyEntry(
        key_id=fields["id"],
        name=fields["name"],
        digest=_parse_hash(fields["hash"]),
        scopes=_parse_scopes(fields["scopes"]),
        created=_required_instant(fields, "created"),
        limits=_parse_limits(fields.get("limits", {})),
        expires=_parse_instant(fields, "expires"),
        revoked=_parse_instant(fields, "revoked"),
        previous=_parse_previous(fields.get("previous")),
    )


def _object(value: object, known: frozenset[str], what: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{what} is no object")
    if unknown := sorted(value.keys() - known):
        raise ValueError(f"{what} has an unknown field {unknown[0][:40]!r}")
    return value


def _parse_hash(value: object) -> bytes:
    if not isinstance(value, str) or _HASH.fullmatch(value) is None:
        raise ValueError(f"a hash has not {HASH_CHARACTERS} hexadecimal digits")
    return bytes.fromhex(value)


def _parse_scopes(value: object) -> frozenset[Scope]:
    known = {scope.value: scope for scope in Scope}
    if not isinstance(value, list) or not value or not all(isinstance(name, str) and name in known for name in value):
        raise ValueError(f"its scopes are not some of {', '.join(known)}")
    return frozenset(known[name] for name in value)


def _parse_limits(value: object) -> KeyLimits:
    fields = _object(value, frozenset(_LIMITS), "limits")
    for name, limit in fields.items():
        if type(limit) is not int or not 0 < limit <= MAX_LIMIT:
            raise ValueError(f"limits: {name} is no whole number from 1 to {MAX_LIMIT}")
    return KeyLimits(**fields)


def _parse_instant(fields: Mapping[str, Any], name: str) -> float | None:
    if (text := fields.get(name)) is None:
        return None
    try:
        return parse_instant(text)
    except (ValueError, TypeError):
        raise ValueError(f"{name} is no instant in RFC 3339, as 2026-11-30T10:00:00Z is") from None


def _required_instant(fields: Mapping[str, Any], name: str) -> float:
    if (at := _parse_instant(fields, name)) is None:
        raise ValueError(f"it has no {name}")
    return at


def _parse_previous(value: object) -> PreviousSecret | None:
    if value is None:
        return None
    fields = _object(value, frozenset({"hash", "until"}), "previous")
    return PreviousSecret(_parse_hash(fields.get("hash")), _required_instant(fields, "until"))


def _entry_to_json(entry: KeyEntry) -> dict[str, Any]:
    """Return an entry without the fields that have no value: they would take half of the document's bytes."""
    limits = {name: value for name in _LIMITS if (value := getattr(entry.limits, name)) is not None}
    previous = entry.previous
    return {
        "id": entry.key_id,
        "name": entry.name,
        "hash": entry.digest.hex(),
        "scopes": [scope.value for scope in Scope if scope in entry.scopes],
        "created": format_instant(entry.created),
        **({} if entry.expires is None else {"expires": format_instant(entry.expires)}),
        **({} if entry.revoked is None else {"revoked": format_instant(entry.revoked)}),
        **({"limits": limits} if limits else {}),
        **({} if previous is None else {"previous": _previous_to_json(previous)}),
    }


def _previous_to_json(previous: PreviousSecret) -> dict[str, str]:
    return {"hash": previous.digest.hex(), "until": format_instant(previous.until)}
