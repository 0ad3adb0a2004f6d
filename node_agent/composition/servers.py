"""Make the HTTP servers: of clients, of peers, and of operators."""

from __future__ import annotations

from dataclasses import replace

from node_agent.adapters.certificate_files import CertificateFiles
from node_agent.adapters.http_limits import Limits
from node_agent.adapters.http_server import HttpServer
from node_agent.composition.inputs import Inputs
from node_agent.core.http.body_budget import BodyBudget
from node_agent.runtime.admin_api.server import AdminApi
from node_agent.runtime.client_api.certificate_watcher import CertificateWatcher
from node_agent.runtime.client_api.client_keys import ClientKeys
from node_agent.runtime.client_api.server import ClientApi
from node_agent.runtime.drain.controller import DrainController
from node_agent.runtime.engine.load_monitor import LoadMonitor
from node_agent.runtime.node.context import NodeContext
from node_agent.runtime.peer_api.server import PeerApi
from node_agent.runtime.replication.server import ReplicationServer

_ADMIN_BODY_BYTES = 64 * 1024
_ADMIN_CONNECTIONS = 128


def make_servers(
    inputs: Inputs, client_api: ClientApi, peer_api: PeerApi, replication: ReplicationServer
) -> tuple[HttpServer, HttpServer]:
    """Make the servers of the client API and the peer API; one bound holds for the bodies of both."""
    settings, metrics = inputs.settings, inputs.metrics
    limits = Limits(
        body_bytes=settings.limits.max_body_bytes,
        bodies_bytes=settings.limits.max_bodies_bytes,
        connections=settings.limits.max_connections,
        connections_per_address=settings.limits.max_connections_per_address,
        unread_s=settings.limits.unread_s,
    )
    bodies = BodyBudget(limits.bodies_bytes)
    metrics.body_bytes.set_function(lambda: bodies.held_bytes)
    clients = HttpServer(
        client_api, limits, bodies=bodies, heads=client_api, on_refused=metrics.refusal_counter("client")
    )
    peers = HttpServer(
        peer_api,
        # Peers' bodies are not read as documents before they are authenticated, and then only the fleet's own.
        replace(limits, document=None),
        replication.alternate_protocol(),
        bodies=bodies,
        on_refused=metrics.refusal_counter("peer"),
    )
    return clients, peers


def make_admin(
    inputs: Inputs, node: NodeContext, drain: DrainController, keys: ClientKeys, load: LoadMonitor
) -> HttpServer:
    """Make the admin API's server, whose bounds are its own: a node that is full of clients still has metrics."""
    limits = Limits(
        body_bytes=_ADMIN_BODY_BYTES,
        connections=_ADMIN_CONNECTIONS,
        connections_per_address=_ADMIN_CONNECTIONS,
        unread_s=inputs.settings.limits.unread_s,
    )
    return HttpServer(
        AdminApi(node, drain, keys.identify, lambda: keys.state, lambda: load.exposition),
        limits,
        on_refused=inputs.metrics.refusal_counter("admin"),
    )


def make_certificate(inputs: Inputs, clients: HttpServer) -> CertificateWatcher | None:
    """Make what keeps the client API's certificate current; None where it has none."""
    tls = inputs.settings.tls
    if tls.certificate is None or tls.key is None:
        return None
    watcher = CertificateWatcher(CertificateFiles(tls.certificate, tls.key), inputs.metrics, inputs.clock)
    clients.use_tls(watcher.context)
    return watcher
