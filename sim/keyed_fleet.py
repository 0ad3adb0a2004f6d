"""A fleet whose nodes have keys of their own, and that EC2 vouches for, as real ones are.

The agreement of two keys is a hash here: a simulation needs no secrets.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace

from node_agent.contract.states import NodeState
from node_agent.core.common.cluster_keys import ClusterKeys
from node_agent.core.membership.pair_keys import PairMessageKeys
from node_agent.core.membership.wire.messages import BOOT_ID_BYTES
from node_agent.core.node.peer_keyring import PeerKeyring
from node_agent.core.node.status import NodeStatus, TaggedNode
from node_agent.core.node.vouched_nodes import VouchedNodes
from sim.fleet import KEY, Fleet
from sim.host import Host


def public_key_of(instance_id: str) -> str:
    """Return a node's public key."""
    return hashlib.sha256(instance_id.encode()).hexdigest()[:44]


class KeyedFleet(Fleet):
    """The same fleet with identities. keys: each node's cluster keys; vouched: each node's record of EC2's listings."""

    def __init__(self, seed: int) -> None:
        self.keys: dict[str, ClusterKeys] = {}
        self.vouched: dict[str, VouchedNodes] = {}
        self.shut_out: set[str] = set()
        super().__init__(seed)

    def _start(self, status: NodeStatus, boot_id: bytes | None = None, table: object = None) -> Host:
        own = public_key_of(status.instance_id)
        status = replace(status, public_key=own)
        keys = self.keys[status.instance_id] = ClusterKeys(KEY)
        vouched = self.vouched[status.instance_id] = VouchedNodes()

        def agree(public: str) -> bytes:
            return hashlib.sha256("".join(sorted((own, public))).encode()).digest()

        messages = PairMessageKeys(PeerKeyring(keys, vouched, agree))
        seed = f"host {self._seed} {status.instance_id} {status.incarnation}"
        host = Host(
            self.scheduler, self.network, status, boot_id or self._random.randbytes(BOOT_ID_BYTES), messages, seed,
            self._watch, vouched=vouched,
        )  # fmt: skip
        self.hosts[status.instance_id] = host
        return host

    def _tag(self, host: Host) -> TaggedNode:
        name = host.instance_id
        key_ids = self.keys[name].keys.key_ids
        return TaggedNode(
            name, host.address, NodeState.READY, public_key_of(name), key_ids, is_shut_out=name in self.shut_out
        )

    def list_everywhere(self) -> None:
        """Let every running node read EC2's tags now."""
        for host in self.running():
            host.tagged(self.tags())
