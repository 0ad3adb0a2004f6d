"""Test the document of clients' keys: what is parsed, and that nothing half right is."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from node_agent.core.access.caller import KeyLimits, Scope
from node_agent.core.access.key_document import MAX_DOCUMENT_BYTES, PreviousSecret, parse_key_document
from tests.unit.core.access.keys import NOW, document, entry, key_number

_HASH = "ab" * 32
_ENTRY = {"id": "0" * 12, "name": "chat", "hash": _HASH, "scopes": ["inference"], "created": "2026-11-30T10:00:00Z"}


def _raw(**changed: Any) -> bytes:
    return orjson.dumps({"version": 1, "pepper": "p" * 32, "keys": [{**_ENTRY, **changed}]})


def test_a_document_round_trips_with_every_field() -> None:
    full = entry(
        key_number(1),
        "chat",
        Scope.INFERENCE,
        Scope.FLEET,
        limits=KeyLimits(60, 100_000, 8),
        expires=NOW + 60,
        revoked=NOW,
        previous=PreviousSecret(b"h" * 32, NOW + 5),
    )
    made = document(full, entry(key_number(2), "other"))
    assert parse_key_document(made.to_bytes()) == made


def test_what_cloudformation_generates_is_a_document_without_keys() -> None:
    made = parse_key_document(b'{"version":1,"keys":[],"pepper":"' + b"A" * 64 + b'"}')
    assert made.keys == ()
    assert made.pepper == b"A" * 64


def test_two_hundred_keys_fit() -> None:
    made = document(*(entry(key_number(n), f"key-{n}", Scope.INFERENCE, expires=NOW) for n in range(200)))
    assert len(made.to_bytes()) < MAX_DOCUMENT_BYTES


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b"", "no JSON"),
        (b"\xff\xfe", "no JSON"),
        (b"[" * 10_000, "no JSON"),
        (b"[]", "version 1"),
        (b'{"version": 2, "pepper": "p", "keys": []}', "version 1"),
        (b" " * (MAX_DOCUMENT_BYTES + 1), "at most"),
        (b'{"version": 1, "keys": []}', "pepper"),
        (b'{"version": 1, "pepper": "short", "keys": []}', "pepper"),
        (b'{"version": 1, "pepper": 7, "keys": []}', "pepper"),
        (b'{"version": 1, "pepper": "' + "\u00e9".encode() * 32 + b'", "keys": []}', "ASCII"),
        (b'{"version": 1, "pepper": "' + b"p" * 32 + b'", "keys": {}}', "no list"),
        (b'{"version": 1, "pepper": "' + b"p" * 32 + b'", "keys": [7]}', "key 1: it is no object"),
        (b'{"version": 1, "pepper": "' + b"p" * 32 + b'", "keys": [], "admin": true}', "unknown fields: admin"),
        (_raw(id="x"), "key 1: its id"),
        (_raw(name=""), "name"),
        (_raw(name="a\nb"), "name"),
        (_raw(name="a" * 65), "name"),
        (_raw(hash="ab"), "hash"),
        (_raw(hash=7), "hash"),
        (_raw(scopes=[]), "scopes"),
        (_raw(scopes=["root"]), "scopes"),
        (_raw(scopes=[["inference"]]), "scopes"),
        (_raw(scopes="inference"), "scopes"),
        (_raw(created=7), "created is no instant"),
        (_raw(created=None), "created"),
        (_raw(expires="tomorrow"), "expires is no instant"),
        (_raw(revoked="2026-11-30"), "revoked is no instant"),
        (_raw(expire="2026-11-30T10:00:00Z"), "unknown field 'expire'"),
        (_raw(limits={"streams": 0}), "streams is no whole number from 1"),
        (_raw(limits={"streams": True}), "streams is no whole number"),
        (_raw(limits={"streams": 1e3}), "streams is no whole number"),
        (_raw(limits={"requests_per_minute": 10**13}), "requests_per_minute"),
        (_raw(limits={"bytes": 5}), "unknown field"),
        (_raw(limits=[]), "no object"),
        (_raw(previous={"hash": _HASH}), "until"),
        (_raw(previous={"until": "2026-11-30T10:00:00Z"}), "hash"),
    ],
)
def test_an_unusable_document_is_refused_as_a_whole(raw: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why) as failed:
        parse_key_document(raw)
    assert _HASH not in str(failed.value)
    assert failed.value.__cause__ is None, "the cause of a parser quotes the document"


def test_two_keys_with_one_id_are_refused() -> None:
    raw = orjson.dumps({"version": 1, "pepper": "p" * 32, "keys": [_ENTRY, _ENTRY]})
    with pytest.raises(ValueError, match="one id"):
        parse_key_document(raw)


def test_no_secret_is_in_a_representation() -> None:
    made = document(entry(key_number(1), previous=PreviousSecret(b"h" * 32, NOW)))
    assert "pppp" not in repr(made)
    assert "hhhh" not in repr(made)
    assert repr(made.keys[0].digest) not in repr(made)
