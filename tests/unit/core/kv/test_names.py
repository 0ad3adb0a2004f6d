"""Names of blocks are keyed: without the cluster's secret nobody can compute them."""

from __future__ import annotations

import pytest

from node_agent.core.kv.blocks import (
    FINGERPRINT_BYTES,
    NAMES_KEY,
    block_name,
    chain,
    chain_root,
    names_key,
    names_key_id,
    read_names_key,
)
from node_agent.kv.requests import Requests
from tests.unit.kv.test_requests import IDS, MADE, SIZE, Request

OLD, NEW = names_key(b"the cluster's key"), names_key(b"the next key")


def names(secret: bytes) -> list[str]:
    return [block_name(key) for key in chain(chain_root(MADE, "", secret), IDS, SIZE)]


def test_a_name_depends_on_the_secret_and_reveals_nothing_of_it() -> None:
    assert not set(names(OLD)) & set(names(NEW))
    assert not set(names(OLD)) & set(names(b""))
    assert names(OLD) == names(names_key(b"the cluster's key"))
    assert len(bytes(FINGERPRINT_BYTES) + OLD) <= 64, "BLAKE2b's longest key"
    assert names_key_id(OLD) != names_key_id(NEW)
    assert names_key_id(b"") == ""


def test_an_engine_finds_blocks_of_its_own_secret_and_computes_the_others() -> None:
    """After a rotation a block is missed, and nothing else happens."""
    held = set(names(OLD))
    same, later = (Requests(MADE, SIZE, held.__contains__, secret=secret) for secret in (OLD, NEW))
    assert same.match(Request(), "", 0, 18) == 4 * SIZE
    assert later.match(Request(), "", 0, 18) == 0


@pytest.mark.parametrize("text", ["", "zz", "00", OLD.hex() + "00", " "])
def test_a_variable_that_is_no_secret_counts_as_absent(text: str) -> None:
    assert read_names_key({NAMES_KEY: text}) == b""
    assert read_names_key({}) == b""
    assert read_names_key({NAMES_KEY: OLD.hex()}) == OLD
