"""Compose a node: make its parts, feature by feature, and connect them.

Nothing runs yet: `node_agent/agent.py` starts the parts and ends them. The parts of a feature are one value; a function
makes it from the inputs, and from the features below it.
"""

from __future__ import annotations

from dataclasses import dataclass

from node_agent.adapters.http_server import HttpServer
from node_agent.composition.clients import ClientParts, make_clients
from node_agent.composition.engine import EngineParts, make_engine, make_kv
from node_agent.composition.inputs import Inputs
from node_agent.composition.membership import MembershipParts, make_membership
from node_agent.composition.replication import ReplicationParts, make_publisher, make_replication
from node_agent.composition.servers import make_admin, make_certificate, make_servers
from node_agent.runtime.client_api.certificate_watcher import CertificateWatcher
from node_agent.runtime.client_api.stream_registry import StreamRegistry
from node_agent.runtime.drain.controller import DrainController
from node_agent.runtime.kv.service import KvService
from node_agent.runtime.node.context import NodeContext
from node_agent.runtime.node.state_publisher import StatePublisher
from node_agent.runtime.peer_api.server import PeerApi


@dataclass(frozen=True)
class Parts:
    """All parts of a node."""

    membership: MembershipParts
    kv: KvService
    engine: EngineParts
    replication: ReplicationParts
    publisher: StatePublisher
    drain: DrainController
    clients: ClientParts
    peer_api: PeerApi
    servers: tuple[HttpServer, HttpServer, HttpServer]
    """Of the client API, of the peer API, and of the admin API."""

    certificate: CertificateWatcher | None
    """Of the client API; None where it has none."""

    @property
    def node(self) -> NodeContext:
        """The state that all features share."""
        return self.membership.node


def compose(inputs: Inputs) -> Parts:
    """Make all parts of a node, inside a running loop."""

    def on_peer_lost(instance_id: str, *, is_shut_out: bool) -> None:
        """Fail the requests at a peer that is dead now, and record what it had ended."""
        engine.client.abort_peer(instance_id)  # no peer is known before the node runs
        if is_shut_out:
            replication.server.disconnect(instance_id)
        replication.recorder.on_peer_lost(instance_id)

    membership = make_membership(inputs, on_peer_lost)
    node = membership.node
    kv = make_kv(inputs, membership)
    engine = make_engine(inputs, membership, kv)
    streams = StreamRegistry(inputs.metrics, inputs.settings.limits.max_streams)
    replication = make_replication(inputs, membership, streams.release)
    publisher = make_publisher(inputs, node.incarnation)
    drain = DrainController(node, engine.calls, publisher.put_drain, kv.handed_off)
    clients = make_clients(inputs, node, engine, replication, streams, lambda: membership.cluster_keys.current.secret)
    peer_api = PeerApi(
        node,
        engine.calls,
        replication.takeovers,
        membership.verifier,
        membership.keyring.signing_key,
        kv.fetcher.fetch,
        kv.server.answer,
    )
    servers = (
        *make_servers(inputs, clients.api, peer_api, replication.server),
        make_admin(inputs, node, drain, clients.keys, engine.load),
    )
    certificate = make_certificate(inputs, servers[0])
    if (tls := membership.tls) is not None:
        servers[1].use_tls(lambda: tls.server, tls)
    return Parts(membership, kv, engine, replication, publisher, drain, clients, peer_api, servers, certificate)
