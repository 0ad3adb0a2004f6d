"""Make the membership of a node: its gossip, its keys, and its requests to peers."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Protocol

from node_agent.adapters.datagrams import UdpDatagrams
from node_agent.adapters.http import HttpClient
from node_agent.adapters.peer_tls import PeerTls
from node_agent.composition.inputs import Inputs
from node_agent.contract.states import NodeState
from node_agent.core.common.address import Address
from node_agent.core.common.cluster_keys import ClusterKeys, parse_cluster_keys
from node_agent.core.common.request_auth import Refusal, RequestVerifier
from node_agent.core.membership import Cause, MemberChanged, Membership
from node_agent.core.membership.pair_keys import PairMessageKeys
from node_agent.core.membership.wire.messages import BOOT_ID_BYTES
from node_agent.core.node.lifecycle import TermRequested
from node_agent.core.node.peer_clocks import PeerClocks
from node_agent.core.node.peer_keyring import PeerKeyring
from node_agent.core.node.request_signer import PeerName, RequestSigner
from node_agent.core.node.status import NodeStatus, Pool
from node_agent.core.node.vouched_nodes import VouchedNodes
from node_agent.ports import Identity, PeerKeys
from node_agent.runtime.node.clock_monitor import ClockMonitor
from node_agent.runtime.node.cluster_key_reader import ClusterKeyReader
from node_agent.runtime.node.context import NodeContext
from node_agent.runtime.node.foreign_keys import ForeignKeyMonitor
from node_agent.runtime.node.gossip import Gossip, is_lost
from node_agent.runtime.peer_api.signed_client import SignedClient
from node_agent.settings import Settings

SHUT_OUT_WITHIN_S = 6.0
"""How long a node that was shut out may take to end its clients' streams, which continue elsewhere."""


class PeerLost(Protocol):
    """Receives a peer that is dead or shut out, by its instance id."""

    def __call__(self, instance_id: str, *, is_shut_out: bool) -> None:
        """Receive it."""


@dataclass(frozen=True)
class MembershipParts:
    """This node and its peers.

    node: the state that all features share.
    to_peers: the HTTP client for requests to peers; signed: over it, for requests that have to be signed.
    peer_keys: the public keys of the nodes that EC2 vouches for.
    cluster_keys: the cluster's keys; key_reader: reads them again; foreign_keys: reports nodes with others.
    keyring: the keys shared with peers; signer, verifier: of requests to peers, and of theirs to this node.
    tls: of connections between nodes, None where they have none.
    """

    datagrams: UdpDatagrams
    gossip: Gossip
    node: NodeContext
    clocks: PeerClocks
    clock_monitor: ClockMonitor
    to_peers: HttpClient
    signed: SignedClient
    peer_keys: PeerKeys
    cluster_keys: ClusterKeys
    key_reader: ClusterKeyReader
    foreign_keys: ForeignKeyMonitor
    keyring: PeerKeyring
    signer: RequestSigner
    verifier: RequestVerifier
    tls: PeerTls | None


def make_membership(inputs: Inputs, on_peer_lost: PeerLost) -> MembershipParts:
    """Make the membership of this node, with the keys that it shares with its peers."""
    settings, key, clock = inputs.settings, inputs.outside.key, inputs.clock
    own_key, vouched = inputs.outside.node_key, VouchedNodes()
    cluster_keys = ClusterKeys(parse_cluster_keys(key))
    keyring = PeerKeyring(cluster_keys, vouched, own_key.shared_secret)

    def nodes_at(address: Address) -> set[str]:
        at = str(address)
        return {status.instance_id for status in node.present if status.peer_address == at}

    tls = _make_peer_tls(inputs, cluster_keys, vouched, nodes_at) if settings.tls.peers else None
    datagrams, to_peers, clocks = UdpDatagrams(), HttpClient(settings.source_host, tls), PeerClocks()

    def on_change(change: MemberChanged) -> None:
        if is_lost(change):
            on_peer_lost(change.status.instance_id, is_shut_out=change.reason is Cause.SHUT_OUT)

    def on_peer_clock(address: str, line: str, nonce: str, took_s: float) -> None:
        if (name := name_at(address)) is not None:
            keys = keyring.shared_keys(name.instance_id)
            signer.record_sync_clock(address, keys, line, nonce, took_s, clock())

    def name_at(address: str) -> PeerName | None:
        found = gossip.machine.name_at(address)
        if found is None:  # the table may name a replica that gossip does not lead to
            vouched_name = vouched.node_at(address)
            return None if vouched_name is None else PeerName(vouched_name, None)
        return PeerName(found[0], found[1].hex() if found[1] else None)

    def on_unsent(reason: Refusal) -> None:
        inputs.metrics.unsent_to_peers.labels(reason.name.lower()).inc()

    status = first_status(settings, inputs.outside.identity, int(clock() * 1000), own_key.public)
    boot_id = secrets.token_bytes(BOOT_ID_BYTES)
    gossip = Gossip(
        Membership(
            status, boot_id, PairMessageKeys(keyring), inputs.monotonic(), inputs.random.random, vouched=vouched
        ),
        datagrams,
        to_peers,
        inputs.monotonic,
        inputs.metrics,
        on_change=on_change,
        on_peer_clock=on_peer_clock,
        on_shut_out=lambda: inputs.post(TermRequested(clock(), clock() + SHUT_OUT_WITHIN_S)),
    )
    node = NodeContext(
        inputs.outside.identity,
        settings.model_name,
        clock,
        gossip,
        inputs.metrics,
        settings.min_silence_s,
        clocks=clocks,
    )
    monitor = ClockMonitor(node, clocks, clock.wall_ahead_s, inputs.post)
    own_id, reader = node.instance_id, _make_key_reader(inputs, cluster_keys)
    signer = RequestSigner(own_id, keyring.signing_key, name_at, clocks)
    signed = SignedClient(to_peers, signer, clock, on_unsent)
    verifier = RequestVerifier(own_id, boot_id.hex(), keyring.shared_key)
    return MembershipParts(
        datagrams, gossip, node, clocks, monitor, to_peers, signed, vouched, cluster_keys, reader,
        ForeignKeyMonitor(vouched, cluster_keys, inputs.metrics), keyring, signer, verifier, tls,
    )  # fmt: skip


def _make_peer_tls(
    inputs: Inputs, cluster_keys: ClusterKeys, peers: PeerKeys, nodes_at: Callable[[Address], Collection[str]]
) -> PeerTls:
    outside = inputs.outside
    return PeerTls(
        outside.node_key,
        outside.identity.instance_id,
        [key.secret for key in cluster_keys.accepted],
        peers,
        nodes_at=nodes_at,
        on_rejected=lambda why: inputs.metrics.peer_rejections.labels(why).inc(),
        clock=inputs.monotonic,
    )


def _make_key_reader(inputs: Inputs, keys: ClusterKeys) -> ClusterKeyReader:
    aws, outside = inputs.settings.aws, inputs.outside
    return ClusterKeyReader(
        outside.secrets,
        aws.cluster_key_secret,
        keys,
        outside.remember_key,
        inputs.metrics,
        aws.cluster_key_read_s,
        inputs.random.random,
    )


def first_status(settings: Settings, identity: Identity, incarnation: int, public_key: str) -> NodeStatus:
    """Return this node's status before anything is ready."""
    peer = settings.advertise_address or str(Address(identity.private_address, settings.peer.port))
    return NodeStatus(
        instance_id=identity.instance_id,
        peer_address=peer,
        client_address=str(Address(peer.rpartition(":")[0], settings.front.port)),
        state=NodeState.STARTING,
        pool=Pool(identity.zone, identity.instance_type),
        model=settings.model_name,
        incarnation=incarnation,
        public_key=public_key,
    )
