"""Make the replication of journals, and the record of this node in the table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from node_agent.adapters.replication_client import TcpReplicaLinks
from node_agent.composition.inputs import Inputs
from node_agent.composition.membership import MembershipParts
from node_agent.contract.states import NodeState
from node_agent.contract.table_schema import NodeRecord, renewed
from node_agent.core.journal.stream_claim import StreamClaim
from node_agent.core.replication.replica_store import ReplicaStore
from node_agent.runtime.node.state_publisher import StatePublisher
from node_agent.runtime.replication.checkpointer import Checkpointer
from node_agent.runtime.replication.manager import ReplicationManager
from node_agent.runtime.replication.server import ReplicationServer
from node_agent.runtime.replication.stream_recorder import StreamRecorder
from node_agent.runtime.replication.takeover import Takeovers


@dataclass(frozen=True)
class ReplicationParts:
    """The replication of this node's journals, and its replicas of other nodes' journals."""

    manager: ReplicationManager
    server: ReplicationServer
    checkpointer: Checkpointer
    recorder: StreamRecorder
    takeovers: Takeovers


def make_replication(
    inputs: Inputs, membership: MembershipParts, release_stream: Callable[[str, StreamClaim], None]
) -> ReplicationParts:
    """Make the replication of journals. release_stream: gives a stream up that another node has taken over."""
    settings, node = inputs.settings, membership.node
    store = ReplicaStore(max_bytes=settings.replication.max_replica_bytes)
    links = TcpReplicaLinks(
        membership.signer, inputs.clock, settings.replication.replica_lag_s, settings.source_host, membership.tls
    )
    recorder = StreamRecorder(node, store, inputs.outside.stream_records)
    manager = ReplicationManager(node, links, store, settings.replication.factor, inputs.random.random, recorder)
    checkpointer = Checkpointer(node, store, inputs.outside.checkpoints)
    takeovers = Takeovers(node, membership.signed, store, release_stream, checkpointer, recorder)
    server = ReplicationServer(store, membership.verifier, inputs.clock)
    return ReplicationParts(manager, server, checkpointer, recorder, takeovers)


def make_publisher(inputs: Inputs, incarnation: int) -> StatePublisher:
    """Make what writes this node's tags and its record in the table."""
    outside, clock = inputs.outside, inputs.clock
    record = NodeRecord(
        instance_id=outside.identity.instance_id,
        zone=outside.identity.zone,
        instance_type=outside.identity.instance_type,
        state=NodeState.STARTING,
        incarnation=incarnation,
        expires_at=renewed(clock()),
    )
    return StatePublisher(record, outside.instances, outside.records, inputs.random.random, clock)
