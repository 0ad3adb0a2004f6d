"""Test the form of a client's key, and its hash."""

from __future__ import annotations

import pytest

from node_agent.core.access.client_key import hash_key, is_key_id, make_key, make_secret, parse_key
from tests.unit.core.access.keys import PEPPER, key_number


def test_a_key_round_trips_through_its_text() -> None:
    key = make_key(bytes.fromhex("4f1c09d2a7be"), bytes(range(32)))
    assert key.text == b"sk-synkti-4f1c09d2a7be-" + bytes(range(32)).hex().encode()
    assert parse_key(key.text) == key
    assert make_secret(key.key_id, bytes(range(32))) == key


def test_a_keys_text_is_in_no_representation() -> None:
    key = key_number(7)
    assert "07070707" not in repr(key).replace(key.key_id, "")


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"sk-synkti-",
        b"sk-synkti-4f1c09d2a7be",
        b"sk-synkti-4f1c09d2a7be-" + b"0" * 63,
        b"sk-synkti-4f1c09d2a7be-" + b"0" * 65,
        b"sk-synkti-4F1C09D2A7BE-" + b"0" * 64,
        b"sk-synkti-4f1c09d2a7be-" + b"0" * 64 + b"\n",
        b"sk-proj-" + b"A" * 150,
        b"\xff" * 87,
        b"A" * 1_000_000,
    ],
)
def test_what_is_no_key_is_none(text: bytes) -> None:
    assert parse_key(text) is None


def test_too_little_randomness_is_refused() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        make_key(bytes(6), bytes(31))
    with pytest.raises(ValueError, match="6 bytes"):
        make_key(bytes(5), bytes(32))


def test_the_hash_depends_on_the_pepper_the_id_and_the_secret() -> None:
    key, other_id = key_number(1), make_secret("0" * 12, bytes([1]) * 32)
    hashes = {
        hash_key(PEPPER, key),
        hash_key(b"q" * 64, key),
        hash_key(PEPPER, other_id),
        hash_key(PEPPER, key_number(2)),
    }
    assert len(hashes) == 4


def test_an_id_is_twelve_digits() -> None:
    assert is_key_id("4f1c09d2a7be")
    assert not any(map(is_key_id, ("", "4f1c09d2a7bE", "4f1c09d2a7be0", None, 7)))
