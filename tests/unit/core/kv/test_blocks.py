"""Test a block's name and header: equal only for equal contexts, and every defect is detected."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node_agent.core.kv.blocks import (
    HEADER_BYTES,
    MAX_BLOCK_BYTES,
    block_defect,
    block_name,
    block_names,
    chain,
    chain_root,
    engine_fingerprint,
    next_key,
    pack_header,
    read_header,
)
from node_agent.core.kv.vllm_args import CONNECTOR, MODULE, kv_arguments

MADE, OTHERS = engine_fingerprint({"weights": "a", "block": 16}), engine_fingerprint({"weights": "b", "block": 16})
FIRST = chain_root(MADE)
KEY = next_key(FIRST, [1, 2, 3])
PAYLOAD = b"keys and values"


def block(shard: int = 0, shards: int = 1) -> bytes:
    return pack_header(MADE, KEY, FIRST, 0, PAYLOAD, shard, shards) + PAYLOAD


def test_a_fingerprint_is_of_the_values_and_not_of_their_order() -> None:
    assert engine_fingerprint({"a": 1, "b": 2}) == engine_fingerprint({"b": 2, "a": 1})
    assert engine_fingerprint({"a": 1}) != engine_fingerprint({"a": "1"})
    assert len(MADE) == 16


@given(st.lists(st.integers(0, 2**20), max_size=40), st.integers(1, 8))
def test_a_chain_has_a_key_for_each_full_block_and_grows_at_its_end(tokens: list[int], size: int) -> None:
    keys = chain(FIRST, tokens, size)
    assert len(keys) == len(tokens) // size
    assert chain(FIRST, [*tokens, *range(size)], size)[: len(keys)] == keys
    assert len(set(keys)) == len(keys)


@given(st.lists(st.integers(0, 2**20), min_size=8, max_size=8), st.integers(0, 7))
def test_another_token_makes_all_keys_from_there_on_others(tokens: list[int], at: int) -> None:
    changed = [token + (place == at) for place, token in enumerate(tokens)]
    same = [one == other for one, other in zip(chain(FIRST, tokens, 2), chain(FIRST, changed, 2), strict=True)]
    assert same == [place < at // 2 for place in range(4)]


def test_another_model_or_salt_shares_no_key() -> None:
    roots = [chain_root(MADE), chain_root(OTHERS), chain_root(MADE, "tenant"), chain_root(MADE, "other tenant")]
    assert len({chain(first, range(16), 16)[0] for first in roots}) == 4


def test_an_invalid_token_id_has_no_key() -> None:
    with pytest.raises(OverflowError):
        next_key(FIRST, [-1])
    with pytest.raises(TypeError):
        next_key(FIRST, ["1"])  # type: ignore[list-item]


def test_names_tell_shards_apart() -> None:
    assert block_names(KEY, 1) == [block_name(KEY)] == [f"{KEY.hex()}.kv"]
    assert len(set(block_names(KEY, 4))) == 4
    assert read_header(block(2, 4)).name == block_name(KEY, 2, 4)


def test_a_whole_block_is_usable() -> None:
    assert block_defect(block(), MADE, block_name(KEY)) is None
    header = read_header(block())
    assert (header.parent, header.position, header.length) == (FIRST, 0, len(PAYLOAD))


@given(st.integers(0, HEADER_BYTES + len(PAYLOAD) - 1), st.integers(0, 7))
def test_no_bit_may_be_another(at: int, bit: int) -> None:
    data = bytearray(block())
    data[at] ^= 1 << bit
    in_links = 56 <= at < 92  # parent and place lead from block to block, and do not depend on this one's content
    assert in_links or block_defect(data, MADE, block_name(KEY)) is not None


@given(st.integers(0, HEADER_BYTES + len(PAYLOAD) - 1))
def test_no_byte_may_be_missing(length: int) -> None:
    assert block_defect(block()[:length], MADE, block_name(KEY)) is not None


@pytest.mark.parametrize(
    ("data", "name", "why"),
    [
        (b"", block_name(KEY), "a truncated header"),
        (b"x" * 500, block_name(KEY), "not a block"),
        (block() + b"x", block_name(KEY), "16 bytes of 15"),
        (block(), block_name(FIRST), "another block"),
        (block(1, 2), block_name(KEY, 0, 2), "another block"),
        (pack_header(OTHERS, KEY, FIRST, 0, PAYLOAD) + PAYLOAD, block_name(KEY), "made by another model"),
    ],
)
def test_an_invalid_block_is_an_error_that_names_the_fault(data: bytes, name: str, why: str) -> None:
    assert why in (block_defect(data, MADE, name) or "")


def test_a_header_that_promises_too_much_is_none() -> None:
    header = bytearray(block()[:HEADER_BYTES])
    header[96:104] = (MAX_BLOCK_BYTES + 1).to_bytes(8, "big")
    with pytest.raises(ValueError, match="an invalid header"):
        read_header(header)
    with pytest.raises(ValueError, match="an invalid header"):
        read_header(pack_header(MADE, KEY, FIRST, 0, PAYLOAD, 2, 2))


def test_vllm_is_configured_to_compute_blocks_that_cannot_be_loaded() -> None:
    name, config = kv_arguments("/var/kv", 1024, "digest")
    assert name == "--kv-transfer-config"
    for part in (MODULE, CONNECTOR, '"kv_load_failure_policy": "recompute"', '"/var/kv"', "1024", "digest"):
        assert part in config
    assert "weights" not in kv_arguments("/var/kv", 1024)[1]
