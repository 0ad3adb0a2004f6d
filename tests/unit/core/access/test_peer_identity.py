"""Which node is on the other side of a connection, by the key of its certificate."""

from __future__ import annotations

import pytest

from node_agent.core.access.peer_identity import Rejection, identify

NODES = {"key of a": "i-a", "key of b": "i-b"}


@pytest.mark.parametrize(
    ("public_key", "expected", "result"),
    [
        ("key of a", (), "i-a"),
        ("key of a", ("i-a",), "i-a"),
        ("key of a", ("i-old", "i-a"), "i-a"),
        ("key of b", ("i-a",), Rejection.OTHER_NODE),
        ("a stranger's", (), Rejection.UNKNOWN_KEY),
        ("a stranger's", ("i-a",), Rejection.UNKNOWN_KEY),
        (None, (), Rejection.NO_KEY),
    ],
)
def test_a_peer_is_the_node_of_its_key_where_it_may_be_that_one(
    public_key: str | None, expected: tuple[str, ...], result: str
) -> None:
    assert identify(public_key, NODES.get, expected) == result
