"""The cluster's keys: the secret's forms, the steps of a rotation, and which key a message gets."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node_agent.core.common.cluster_keys import (
    MAX_DOCUMENT_BYTES,
    ClusterKeys,
    ClusterKeySet,
    cluster_key,
    parse_cluster_keys,
)

ONE, TWO, THREE = (cluster_key(f"secret number {number}".encode()) for number in (1, 2, 3))


def test_a_text_is_the_only_key_as_cloudformation_generates_it() -> None:
    keys = parse_cluster_keys(b"AbC123")
    assert keys == ClusterKeySet(cluster_key(b"AbC123"))
    assert keys.key_ids == (keys.current.key_id,)


def test_an_id_is_short_differs_and_is_no_part_of_the_key() -> None:
    assert len({ONE.key_id, TWO.key_id, THREE.key_id}) == 3
    assert all(len(key.key_id) == 8 and key.key_id not in key.secret.hex() for key in (ONE, TWO, THREE))


@pytest.mark.parametrize("keys", [ClusterKeySet(ONE), ClusterKeySet(ONE, TWO), ClusterKeySet(TWO, None, ONE)])
def test_a_document_round_trips(keys: ClusterKeySet) -> None:
    assert parse_cluster_keys(keys.to_document().encode()) == keys


@pytest.mark.parametrize(
    "document",
    [
        b"", b" \n", b"{", b"{}", b'{"next": "x"}', b'{"current": 1}', b'{"current": ""}',
        b'{"current": "a", "x": "b"}',
        b'{"current": "a", "next": "a"}', b'{"current": "\\ud800"}', b'{"current": null}', b"{" * 2_000,
        b"x" * (MAX_DOCUMENT_BYTES + 1),
    ],
)  # fmt: skip
def test_an_unusable_document_is_an_error_that_quotes_nothing(document: bytes) -> None:
    with pytest.raises(ValueError, match="the cluster's key") as error:
        parse_cluster_keys(document)
    assert error.value.__cause__ is None
    assert document.decode()[:20] not in str(error.value) or len(document.strip()) < 3


@given(st.binary(max_size=200) | st.text(max_size=100).map(lambda text: json.dumps({"current": text}).encode()))
def test_any_bytes_are_keys_or_a_value_error(document: bytes) -> None:
    try:
        keys = parse_cluster_keys(document)
    except ValueError:
        return
    assert keys.current.secret


def test_a_rotation_has_three_steps() -> None:
    keys = ClusterKeySet(ONE).begin(TWO.secret)
    assert keys == ClusterKeySet(ONE, next=TWO)
    assert keys.begin(THREE.secret) == keys, "a rotation that has begun continues with its key"
    keys = keys.promote()
    assert keys == ClusterKeySet(TWO, previous=ONE)
    assert keys.promote() == keys
    assert keys.finish() == ClusterKeySet(TWO)


def test_at_each_step_two_nodes_have_a_key_for_each_other_also_one_step_apart() -> None:
    steps = [ClusterKeySet(ONE), ClusterKeySet(ONE, TWO), ClusterKeySet(TWO, None, ONE), ClusterKeySet(TWO)]
    for before, after in itertools.pairwise(steps):
        for mine, theirs in ((before, after), (after, before), (before, before)):
            key = ClusterKeys(mine).for_receiver(theirs.key_ids)
            assert key in theirs.accepted
            assert ClusterKeys(mine).current in theirs.accepted, "also where the other's tag is not known yet"


def test_a_node_that_reads_nothing_gets_the_key_that_it_has() -> None:
    keys = ClusterKeys(ClusterKeySet(TWO, previous=ONE))
    assert keys.for_receiver((ONE.key_id,)) == ONE
    assert keys.for_receiver(()) == TWO
    assert keys.for_receiver((THREE.key_id,)) == TWO


def test_a_change_is_reported_once() -> None:
    keys, changes = ClusterKeys(ONE.secret), list[str]()
    keys.on_change = lambda: changes.append(keys.current.key_id)
    assert not keys.replace(ClusterKeySet(ONE))
    assert keys.replace(ClusterKeySet(TWO, previous=ONE))
    assert changes == [TWO.key_id]
    assert keys.by_id(ONE.key_id) == ONE
    assert keys.by_id(THREE.key_id) is None
