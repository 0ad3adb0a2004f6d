"""Test the index of blocks: how they are requested, split, and found again from the last one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node_agent.core.kv.blocks import (
    HEADER_BYTES,
    MAX_BLOCK_BYTES,
    block_name,
    chain,
    chain_root,
    pack_header,
    read_header,
)
from node_agent.core.kv.index import (
    MAX_BLOCKS,
    Index,
    blocks_key,
    chain_of,
    index_key,
    is_block_name,
    is_stream_id,
    last_blocks_of,
    parse_index,
    parse_names,
    plan_batches,
    split_blocks,
)

MADE = bytes(16)
KEYS = chain(chain_root(MADE), range(40), 4)
NAMES = tuple(map(block_name, KEYS))


def blocks(payload: bytes = b"payload", keys: Sequence[bytes] = KEYS) -> dict[str, bytes]:
    parents = [chain_root(MADE), *keys]
    return {
        block_name(key): pack_header(MADE, key, parents[place], place, payload) + payload
        for place, key in enumerate(keys)
    }


def index(size: int = 1000) -> Index:
    return Index(MADE, NAMES, (size,) * len(NAMES), "kv/x")


def test_an_index_round_trips() -> None:
    assert parse_index(index().to_bytes()) == index()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        replace(index(), names=NAMES[:-1]).to_bytes(),
        replace(index(), names=("../../etc/passwd", *NAMES[1:])).to_bytes(),
        replace(index(), sizes=(HEADER_BYTES - 1,) * len(NAMES)).to_bytes(),
        replace(index(), sizes=(HEADER_BYTES + MAX_BLOCK_BYTES + 1,) * len(NAMES)).to_bytes(),
        Index(MADE, NAMES[:1] * (MAX_BLOCKS + 1), (1000,) * (MAX_BLOCKS + 1)).to_bytes(),
        index().to_bytes().replace(b'"fingerprint":"00', b'"fingerprint":"zz'),
        index().to_bytes().replace(b"[1000", b'["a"'),
    ],
    ids=str,
)
def test_an_invalid_index_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 # each of its own words, one kind
        parse_index(data)


@pytest.mark.parametrize(
    ("name", "is_one"),
    [
        (NAMES[0], True),
        (block_name(KEYS[0], 3, 8), True),
        (NAMES[0].upper(), False),
        (NAMES[0] + "x", False),
        ("../" + NAMES[0], False),
        (f"{NAMES[0]}\n", False),
        ("layout.json", False),
        ("", False),
    ],
)
def test_only_blocks_may_be_requested(name: str, is_one: bool) -> None:
    assert is_block_name(name) is is_one


def test_names_in_a_request_of_a_peer_are_checked() -> None:
    assert parse_names(b'["%s"]' % NAMES[0].encode()) == NAMES[:1]
    for data in (b"", b"{}", b"[]", b"[1]", b'["heads.log"]', b"null"):
        with pytest.raises(ValueError):  # noqa: PT011 # JSON's own words among them
            parse_names(data)


def test_keys_in_the_bucket_contain_the_fingerprint() -> None:
    assert index_key(MADE, "ab") != blocks_key(MADE, "ab")
    assert {key.split("/")[1] for key in (index_key(MADE, "ab"), blocks_key(MADE, "ab"))} == {MADE.hex()}
    assert is_stream_id("0123456789abcdef01234567")
    assert not is_stream_id("../x")


@given(
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=10),
    have=st.sets(st.integers(0, 9)),
    most=st.integers(1, 60),
)
def test_batches_cover_the_wanted_blocks_once_in_order(sizes: list[int], have: set[int], most: int) -> None:
    names = NAMES[: len(sizes)]
    found = list(plan_batches(Index(MADE, names, tuple(sizes)), lambda name: names.index(name) not in have, most))
    assert [name for batch in found for name in batch.names] == [n for at, n in enumerate(names) if at not in have]
    for batch in found:
        first = names.index(batch.names[0])
        assert batch.start == sum(sizes[:first])
        assert batch.end - batch.start == sum(sizes[first : first + len(batch.names)])
        assert batch.end - batch.start <= most or len(batch.names) == 1


def test_blocks_that_came_together_are_taken_apart() -> None:
    made = blocks()
    data = b"".join(made.values())
    assert dict(split_blocks(data, NAMES)) == made
    assert [name for name, _ in split_blocks(data[:-1], NAMES)] == list(NAMES[:-1]), "the last came half"
    assert split_blocks(b"nonsense" * 100, NAMES) == []
    assert split_blocks(b"", NAMES) == []


def test_the_way_back_from_the_last_block_names_them_all() -> None:
    made = blocks()

    def header(name: str):  # type: ignore[no-untyped-def] # as walk wants it
        return read_header(made[name]) if name in made else None

    assert chain_of(KEYS[-1], 1, header) == list(NAMES)
    assert chain_of(KEYS[3], 1, header) == list(NAMES[:4])
    del made[NAMES[2]]
    assert chain_of(KEYS[-1], 1, header) == []
    made[NAMES[2]] = made[NAMES[5]]
    assert chain_of(KEYS[-1], 1, header) == [], "another block under its name"


def test_a_way_back_that_never_ends_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node_agent.core.kv.index.MAX_BLOCKS", 20)
    payload = b"x"
    ring = {block_name(KEYS[0]): pack_header(MADE, KEYS[0], KEYS[0], 1, payload) + payload}
    assert chain_of(KEYS[0], 1, lambda name: read_header(ring[name])) == []


def test_a_streams_heads_are_found_by_its_name_the_latest_first() -> None:
    heads = {"cmpl-ab12-0-x": KEYS[0], "chatcmpl-ff-0": KEYS[1], "cmpl-ab12-1-y": KEYS[2]}
    assert last_blocks_of("ab12", heads) == [KEYS[2], KEYS[0]]
    assert last_blocks_of("cd", heads) == []
