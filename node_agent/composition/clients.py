"""Make the client API and what it serves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from node_agent.adapters.control_tokens import read_control_tokens
from node_agent.adapters.package_files import read_instance_prices, read_page
from node_agent.composition.engine import EngineParts
from node_agent.composition.inputs import Inputs
from node_agent.composition.replication import ReplicationParts
from node_agent.core.policy.request_policy import RequestPolicy
from node_agent.runtime.client_api.admission_queue import AdmissionQueue
from node_agent.runtime.client_api.audit import Audit
from node_agent.runtime.client_api.client_keys import ClientKeys
from node_agent.runtime.client_api.key_limits import KeyLimiter
from node_agent.runtime.client_api.model_list import ModelList
from node_agent.runtime.client_api.server import ClientApi
from node_agent.runtime.client_api.stream_registry import StreamRegistry
from node_agent.runtime.node.context import NodeContext
from node_agent.runtime.ui.page import Page
from node_agent.runtime.ui.snapshots import Snapshots


@dataclass(frozen=True)
class ClientParts:
    """The client API and what it serves."""

    api: ClientApi
    admission: AdmissionQueue
    limits: KeyLimiter
    models: ModelList
    keys: ClientKeys
    audit: Audit
    streams: StreamRegistry
    page: Page

    def open_requests(self) -> int:
        """Return the number of clients' requests in progress."""
        return len(self.streams) + len(self.api.buffered_requests)

    def close_with_handoff(self) -> None:
        """End every client's connection with an error that names the nodes to reconnect to."""
        for stream in self.streams:
            stream.close_with_handoff()
        self.api.buffered_requests.close_with_handoff()


def make_clients(
    inputs: Inputs,
    node: NodeContext,
    engine: EngineParts,
    replication: ReplicationParts,
    streams: StreamRegistry,
    cluster_secret: Callable[[], bytes],
) -> ClientParts:
    """Make the client API, with its queue, keys, limits and page. cluster_secret: returns the current cluster key's."""
    admission = AdmissionQueue(node, inputs.random.random)
    models = ModelList(node, engine.client, inputs.to_engine, inputs.settings.engine.address)
    limits = KeyLimiter(node, admission)
    keys = ClientKeys(node, inputs.outside.client_keys, inputs.random.random)
    audit = Audit(node, inputs.outside.audit_log)
    scheme = "http" if inputs.settings.tls.certificate is None else "https"
    page = make_page(inputs, node, streams, keys, scheme)
    api = ClientApi(
        node,
        admission,
        limits,
        engine.client,
        replication.manager,
        replication.takeovers,
        streams,
        models,
        keys,
        audit,
        inputs.settings.allowed_origins,
        scheme,
        RequestPolicy(inputs.settings.policy, read_control_tokens(inputs.settings.model_dir), cluster_secret),
        page.handlers,
    )
    return ClientParts(api, admission, limits, models, keys, audit, streams, page)


def make_page(
    inputs: Inputs,
    node: NodeContext,
    streams: StreamRegistry,
    keys: ClientKeys,
    scheme: str,
) -> Page:
    """Make the node's page, and the snapshots that it shows."""
    settings = inputs.settings
    prices = read_instance_prices()
    snapshots = Snapshots(node, streams, prices, settings.cluster, scheme)
    return Page(read_page() if settings.ui else {}, snapshots, keys, is_on=settings.ui)
