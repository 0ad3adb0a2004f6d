"""Test who is recognized by a key, and who is not."""

from __future__ import annotations

import pytest

from node_agent.core.access import key_ring
from node_agent.core.access.caller import Caller, KeyLimits, Scope
from node_agent.core.access.client_key import hash_key, make_secret
from node_agent.core.access.key_document import PreviousSecret
from node_agent.core.access.key_ring import KeyRefusal, KeyRing
from tests.unit.core.access.keys import NOW, PEPPER, document, entry, key_number


def test_a_key_in_force_has_its_caller() -> None:
    key, limits = key_number(1), KeyLimits(streams=2)
    ring = KeyRing(document(entry(key, "chat", Scope.INFERENCE, limits=limits), entry(key_number(2))))
    assert ring.identify(key, NOW) == Caller(key.key_id, "chat", frozenset({Scope.INFERENCE}), limits)
    assert ring.count_in_force(NOW) == 2


def test_a_foreign_secret_and_an_unknown_id_are_both_unknown() -> None:
    key = key_number(1)
    ring = KeyRing(document(entry(key)))
    assert ring.identify(make_secret(key.key_id, bytes(32)), NOW) is KeyRefusal.UNKNOWN
    assert ring.identify(key_number(2), NOW) is KeyRefusal.UNKNOWN
    assert KeyRing(document()).identify(key, NOW) is KeyRefusal.UNKNOWN


def test_a_key_of_another_clusters_document_is_unknown() -> None:
    key = key_number(1)
    foreign = entry(key)
    other = KeyRing(document(foreign).__class__(b"q" * 64, (foreign,)))
    assert other.identify(key, NOW) is KeyRefusal.UNKNOWN


def test_an_expired_and_a_revoked_key_are_refused_with_their_reason() -> None:
    key = key_number(1)
    ring = KeyRing(document(entry(key, expires=NOW)))
    assert isinstance(ring.identify(key, NOW - 0.001), Caller)
    assert ring.identify(key, NOW) is KeyRefusal.EXPIRED
    assert ring.count_in_force(NOW) == 0
    assert KeyRing(document(entry(key, revoked=NOW - 1))).identify(key, NOW) is KeyRefusal.REVOKED


def test_only_the_holder_of_a_secret_learns_that_it_was_revoked() -> None:
    key = key_number(1)
    ring = KeyRing(document(entry(key, revoked=NOW - 1)))
    assert ring.identify(make_secret(key.key_id, bytes(32)), NOW) is KeyRefusal.UNKNOWN


def test_a_rotated_key_has_two_secrets_until_the_older_one_ends() -> None:
    old, new = key_number(1), make_secret(key_number(1).key_id, b"n" * 32)
    ring = KeyRing(document(entry(new, previous=PreviousSecret(hash_key(PEPPER, old), NOW + 60))))
    assert isinstance(ring.identify(new, NOW), Caller)
    assert ring.identify(old, NOW + 59) == ring.identify(new, NOW + 59)
    assert ring.identify(old, NOW + 60) is KeyRefusal.EXPIRED
    assert isinstance(ring.identify(new, NOW + 60), Caller)


def test_a_miss_costs_what_a_hit_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same calls: a time is no proof on a busy machine."""
    calls: list[str] = []

    def hashed(pepper: bytes, key: object) -> bytes:
        calls.append("hash")
        return hash_key(pepper, key)  # type: ignore[arg-type]

    def compared(left: bytes, right: bytes) -> bool:
        calls.append("compare")
        return left == right

    monkeypatch.setattr(key_ring, "hash_key", hashed)
    monkeypatch.setattr("hmac.compare_digest", compared)
    key = key_number(1)
    ring = KeyRing(document(entry(key)))
    counts = []
    for sent in (key, make_secret(key.key_id, bytes(32)), key_number(2)):
        calls.clear()
        ring.identify(sent, NOW)
        counts.append(list(calls))
    assert counts == [["hash", "compare", "compare"]] * 3
