"""Make the client API and what it serves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from node_agent.adapters.control_tokens import read_control_tokens
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
    """Make the client API, with its queue, keys and limits. cluster_secret: returns the current cluster key's."""
    admission = AdmissionQueue(node, inputs.random.random)
    models = ModelList(node, engine.client, inputs.to_engine, inputs.settings.engine.address)
    limits = KeyLimiter(node, admission)
    keys = ClientKeys(node, inputs.outside.client_keys, inputs.random.random)
    audit = Audit(node, inputs.outside.audit_log)
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
        "http" if inputs.settings.tls.certificate is None else "https",
        RequestPolicy(inputs.settings.policy, read_control_tokens(inputs.settings.model_dir), cluster_secret),
    )
    return ClientParts(api, admission, limits, models, keys, audit, streams)
