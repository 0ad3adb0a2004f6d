"""Which nodes EC2 vouches for, and the keys that this node shares with them."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest

from node_agent.contract.states import NodeState
from node_agent.core.common.cluster_keys import ClusterKey, ClusterKeys
from node_agent.core.common.request_auth import Refusal
from node_agent.core.node import peer_keyring, vouched_nodes
from node_agent.core.node.peer_keyring import PeerKeyring
from node_agent.core.node.status import TaggedNode
from node_agent.core.node.vouched_nodes import MISSING_READS, VouchedNodes
from tests.unit.runtime.a_node import status_of

A, B, C = (letter * 44 for letter in "ABC")
ONE, TWO = TaggedNode("i-1", "i-1:1", NodeState.READY, A), TaggedNode("i-2", "i-2:1", NodeState.READY, B)


def vouched(*nodes: TaggedNode) -> VouchedNodes:
    found = VouchedNodes()
    found.update(nodes)
    return found


@pytest.mark.parametrize(
    ("node", "key", "is_vouched"),
    [
        (ONE, A, True),
        (ONE, B, False),
        (ONE, "", False),
        (replace(ONE, public_key=None), "", False),
        (replace(ONE, public_key=None), A, False),
        (replace(ONE, peer_address="10.0.0.9:1"), A, False),
        (replace(ONE, instance_id="i-3"), A, False),
    ],
)
def test_ec2_vouches_for_an_instance_at_its_address_with_its_key(node: TaggedNode, key: str, is_vouched: bool) -> None:
    status = replace(status_of(1), public_key=key)
    assert vouched(node, TWO).vouches_for(status) is is_vouched


def test_keys_and_nodes_are_found_by_each_other() -> None:
    found = vouched(ONE, TWO)
    assert (found.public_key("i-2"), found.node_of(B)) == (B, "i-2")
    assert (found.public_key("i-3"), found.node_of(C)) == (None, None)
    found.update([replace(ONE, public_key=C), TWO])
    assert (found.public_key("i-1"), found.node_of(A), found.node_of(C)) == (C, None, "i-1"), "after a restart"


def test_a_node_that_gossip_does_not_lead_to_is_found_by_its_address() -> None:
    record = vouched(ONE, replace(TWO, is_shut_out=True))
    assert record.node_at("i-1:1") == "i-1"
    assert record.node_at("i-2:1") is None, "it is shut out"
    assert record.node_at("10.0.0.9:1") is None


def test_a_node_is_gone_when_several_listings_in_a_row_do_not_have_it() -> None:
    found = vouched(ONE, TWO)
    for _ in range(MISSING_READS - 1):
        found.update([TWO])
    assert found.public_key("i-1") == A, "EC2's listings are eventually consistent"
    found.update([ONE, TWO])
    for _ in range(MISSING_READS):
        assert found.public_key("i-1") == A
        found.update([TWO])
    assert found.public_key("i-1") is None
    for _ in range(2 * MISSING_READS):
        found.update([], is_complete=False)
    assert found.public_key("i-2") == B


def test_the_record_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vouched_nodes, "MAX_NODES", 1)
    found = vouched(ONE, TWO)
    assert (found.public_key("i-1"), found.public_key("i-2")) == (A, None)


# keys


def agree(own: str) -> PeerKeyring:
    """A node's keyring; the secret of a pair is the same on both sides."""

    def secret(public: str) -> bytes:
        if public == C:
            raise ValueError("no point on the curve")
        return hashlib.sha256("".join(sorted((own, public))).encode()).digest()

    nodes = vouched(ONE, TWO, TaggedNode("i-3", "i-3:1", None, C))
    return PeerKeyring(ClusterKeys(b"cluster"), nodes, secret)


def test_both_nodes_of_a_pair_have_the_same_key_and_no_others_have_it() -> None:
    one, two = agree(A), agree(B)
    key = one.signing_key("i-2")
    assert isinstance(key, ClusterKey)
    assert key == two.signing_key("i-1") == two.shared_key("i-1", key.key_id)
    assert two.shared_keys("i-1") == (key,)
    assert key != agree("a third one's").signing_key("i-2")
    assert key.secret != b"cluster"
    other_cluster = PeerKeyring(ClusterKeys(b"other"), vouched(ONE), lambda _: key.secret)
    assert other_cluster.signing_key("i-1") != key


def test_there_is_no_key_for_a_stranger_an_unusable_key_or_a_foreign_cluster() -> None:
    one = agree(A)
    key_id = ClusterKeys(b"cluster").current.key_id
    assert one.signing_key("i-9") is Refusal.UNKNOWN_NODE
    assert one.signing_key("i-3") is Refusal.UNKNOWN_NODE
    assert one.shared_key("i-2", ClusterKeys(b"foreign").current.key_id) is Refusal.FOREIGN_KEY
    assert one.shared_keys("i-3") == ()
    assert isinstance(one.shared_key("i-2", key_id), ClusterKey)


def test_a_secret_is_derived_once_and_the_cache_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_keyring, "MAX_SECRETS", 2)
    calls: list[str] = []

    def secret(public: str) -> bytes:
        calls.append(public)
        return public.encode()

    ring = PeerKeyring(ClusterKeys(b"cluster"), vouched(ONE, TWO), secret)
    for _ in range(5):
        ring.signing_key("i-1")
        ring.signing_key("i-2")
    assert calls == [A, B]
    nodes = vouched(*(TaggedNode(f"i-{n}", "x:1", None, f"{n:044d}") for n in range(9)))
    ring = PeerKeyring(ClusterKeys(b"cluster"), nodes, secret)
    for number in range(9):
        ring.signing_key(f"i-{number}")
    assert len(ring._secrets) <= 2
    assert len(ring._keys) <= 2
