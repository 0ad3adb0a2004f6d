"""Compose a node: make its parts, feature by feature, and connect them.

Nothing runs yet: `node_agent/agent.py` starts the parts and ends them. The parts of a feature are one value; a function
makes it from the inputs, and from the features below it.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

from node_agent.adapters.datagrams import UdpDatagrams
from node_agent.adapters.engine_process import EngineProcess
from node_agent.adapters.engine_steps import STEPS_DIR, EngineStepFiles
from node_agent.adapters.http import HttpClient
from node_agent.adapters.http_limits import Limits
from node_agent.adapters.http_server import HttpServer
from node_agent.adapters.replication_client import TcpReplicaLinks
from node_agent.adapters.steady_clock import SteadyClock
from node_agent.contract.states import NodeState
from node_agent.contract.table_schema import NodeRecord, renewed
from node_agent.core.common.address import Address
from node_agent.core.common.request_auth import RequestVerifier
from node_agent.core.http.body_budget import BodyBudget
from node_agent.core.journal.stream_claim import StreamClaim
from node_agent.core.membership import MemberChanged, Membership
from node_agent.core.membership.wire.messages import BOOT_ID_BYTES
from node_agent.core.node.lifecycle import Event
from node_agent.core.node.peer_clocks import PeerClocks
from node_agent.core.node.status import NodeStatus, Pool
from node_agent.core.replication.replica_store import ReplicaStore
from node_agent.dependencies import Dependencies
from node_agent.kv.folder import MAX_WRITERS, BlockFolder
from node_agent.ports import Identity
from node_agent.runtime.client_api.admission_queue import AdmissionQueue
from node_agent.runtime.client_api.audit import Audit
from node_agent.runtime.client_api.client_keys import ClientKeys
from node_agent.runtime.client_api.model_list import ModelList
from node_agent.runtime.client_api.server import ClientApi
from node_agent.runtime.client_api.stream_registry import StreamRegistry
from node_agent.runtime.common.metrics import Metrics
from node_agent.runtime.drain.controller import DrainController
from node_agent.runtime.engine.active_requests import EngineCalls
from node_agent.runtime.engine.client import EngineClient
from node_agent.runtime.engine.lifetime_tracker import LifetimeTracker
from node_agent.runtime.engine.load_monitor import LoadMonitor
from node_agent.runtime.engine.self_test import supported_methods
from node_agent.runtime.engine.supervisor import EnginePlan, EngineSupervisor
from node_agent.runtime.engine.watchdog import EngineWatchdog
from node_agent.runtime.kv.service import KvService
from node_agent.runtime.node.clock_monitor import ClockMonitor
from node_agent.runtime.node.context import NodeContext
from node_agent.runtime.node.gossip import Gossip, is_lost
from node_agent.runtime.node.state_publisher import StatePublisher
from node_agent.runtime.peer_api.server import PeerApi
from node_agent.runtime.peer_api.signed_client import SignedClient
from node_agent.runtime.replication.checkpointer import Checkpointer
from node_agent.runtime.replication.manager import ReplicationManager
from node_agent.runtime.replication.server import ReplicationServer
from node_agent.runtime.replication.stream_recorder import StreamRecorder
from node_agent.runtime.replication.takeover import Takeovers
from node_agent.settings import Settings


@dataclass(frozen=True)
class Inputs:
    """What a node is made from.

    to_engine: the HTTP client for requests to the node's own engine.
    clock: unix seconds, steady; monotonic: seconds, for durations.
    random: of waits and choices, no secret comes from it.
    post: queues an event for the lifecycle.
    """

    settings: Settings
    outside: Dependencies
    to_engine: HttpClient
    metrics: Metrics
    clock: SteadyClock
    monotonic: Callable[[], float]
    random: Random
    post: Callable[[Event], None]


@dataclass(frozen=True)
class MembershipParts:
    """This node and its peers.

    node: the state that all features share.
    to_peers: the HTTP client for requests to peers; signed: over it, for requests that have to be signed.
    verifier: of peers' requests to this node.
    """

    datagrams: UdpDatagrams
    gossip: Gossip
    node: NodeContext
    clocks: PeerClocks
    clock_monitor: ClockMonitor
    to_peers: HttpClient
    signed: SignedClient
    verifier: RequestVerifier


@dataclass(frozen=True)
class EngineParts:
    """The local engine, its requests, and the client of all engines of the fleet."""

    calls: EngineCalls
    client: EngineClient
    steps: EngineStepFiles
    load: LoadMonitor
    supervisor: EngineSupervisor


@dataclass(frozen=True)
class ReplicationParts:
    """The replication of this node's journals, and its replicas of other nodes' journals."""

    manager: ReplicationManager
    server: ReplicationServer
    checkpointer: Checkpointer
    recorder: StreamRecorder
    takeovers: Takeovers


@dataclass(frozen=True)
class ClientParts:
    """The client API and what it serves."""

    api: ClientApi
    admission: AdmissionQueue
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
    servers: tuple[HttpServer, HttpServer]
    """Of the client API, and of the peer API."""

    @property
    def node(self) -> NodeContext:
        """The state that all features share."""
        return self.membership.node


def compose(inputs: Inputs) -> Parts:
    """Make all parts of a node, inside a running loop."""

    def on_peer_lost(instance_id: str) -> None:
        """Fail the requests at a peer that is dead now, and record what it had ended."""
        engine.client.abort_peer(instance_id)  # no peer is known before the node runs
        replication.recorder.on_peer_lost(instance_id)

    membership = _make_membership(inputs, on_peer_lost)
    node = membership.node
    kv = _make_kv(inputs, membership)
    engine = _make_engine(inputs, membership, kv)
    streams = StreamRegistry(inputs.metrics, inputs.settings.limits.max_streams)
    replication = _make_replication(inputs, membership, streams.release)
    publisher = _make_publisher(inputs, node.incarnation)
    drain = DrainController(node, engine.calls, publisher.put_drain, kv.handed_off)
    clients = _make_clients(inputs, node, engine, replication, drain, streams)
    peer_api = PeerApi(
        node, engine.calls, replication.takeovers, membership.verifier, kv.fetcher.fetch, kv.server.answer
    )
    servers = _make_servers(inputs, clients.api, peer_api, replication.server)
    return Parts(membership, kv, engine, replication, publisher, drain, clients, peer_api, servers)


def _make_membership(inputs: Inputs, on_peer_lost: Callable[[str], None]) -> MembershipParts:
    settings, key, clock = inputs.settings, inputs.outside.key, inputs.clock
    datagrams, to_peers, clocks = UdpDatagrams(), HttpClient(settings.source_host), PeerClocks(key)

    def on_change(change: MemberChanged) -> None:
        if is_lost(change):
            on_peer_lost(change.status.instance_id)

    def on_peer_clock(address: str, line: str, nonce: str, took_s: float) -> None:
        clocks.record(address, line, nonce, took_s, clock())

    status = first_status(settings, inputs.outside.identity, int(clock() * 1000))
    boot_id = secrets.token_bytes(BOOT_ID_BYTES)
    gossip = Gossip(
        Membership(status, boot_id, key, inputs.monotonic(), inputs.random.random),
        datagrams,
        to_peers,
        inputs.monotonic,
        inputs.metrics,
        on_change=on_change,
        on_peer_clock=on_peer_clock,
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
    signed = SignedClient(to_peers, clocks, clock)
    verifier = RequestVerifier(key, audience=secrets.token_hex(8))
    return MembershipParts(datagrams, gossip, node, clocks, monitor, to_peers, signed, verifier)


def first_status(settings: Settings, identity: Identity, incarnation: int) -> NodeStatus:
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
    )


def _make_kv(inputs: Inputs, membership: MembershipParts) -> KvService:
    settings, outside = inputs.settings, inputs.outside
    folder = BlockFolder(settings.kv_dir, settings.kv_max_bytes, MAX_WRITERS) if settings.kv_max_bytes else None
    return KvService(
        membership.node,
        inputs.to_engine,
        membership.signed,
        outside.key,
        settings.engine.address,
        folder,
        outside.blocks,
        inputs.random,
    )


def _make_engine(inputs: Inputs, membership: MembershipParts, kv: KvService) -> EngineParts:
    settings, node = inputs.settings, membership.node
    calls = EngineCalls(node, inputs.to_engine, settings.engine.address)
    client = EngineClient(node, calls, membership.signed, inputs.outside.key, kv.fetcher.fetch)
    environ = engine_environ(settings, os.environ)
    group = EngineProcess(settings.engine_argv, environ, settings.state_dir / "engine.group")
    steps = EngineStepFiles(settings.steps_dir)
    load = LoadMonitor(node, calls, inputs.to_engine, settings.engine.address, kv.prefill_tokens_per_s)
    watchdog = EngineWatchdog(
        node, calls, load, inputs.to_engine, settings.engine.address, steps, group.is_suspended, settings.engine.stuck_s
    )
    supervisor = _make_supervisor(inputs, node, group, calls.lifetimes, watchdog)
    return EngineParts(calls, client, steps, load, supervisor)


def engine_environ(settings: Settings, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the engine's environment: the agent's own, and where the plug-in counts the core's steps.

    An engine that keeps blocks imports from this package there (`node_agent/kv`).
    """
    environ = {**environ, STEPS_DIR: str(settings.steps_dir)}
    if not settings.kv_max_bytes:
        return environ
    above = str(Path(__file__).resolve().parents[1])
    return {**environ, "PYTHONPATH": os.pathsep.join(filter(None, (above, environ.get("PYTHONPATH"))))}


def _make_supervisor(
    inputs: Inputs, node: NodeContext, group: EngineProcess, lifetimes: LifetimeTracker, watchdog: EngineWatchdog
) -> EngineSupervisor:
    settings = inputs.settings

    async def examine() -> None:
        """Run the self-test: peers may use only the methods that it saw working."""
        node.continuation_methods = ()
        node.continuation_methods = await supported_methods(
            inputs.to_engine, settings.engine.address, settings.model_name
        )

    return EngineSupervisor(
        EnginePlan(settings.engine.address, settings.model_name, settings.engine.start_s, settings.engine.restarts),
        group,
        lifetimes,
        inputs.to_engine,
        inputs.post,
        inputs.clock,
        inputs.random.random,
        examine,
        watchdog.until_stuck,
    )


def _make_replication(
    inputs: Inputs, membership: MembershipParts, release_stream: Callable[[str, StreamClaim], None]
) -> ReplicationParts:
    settings, key, node = inputs.settings, inputs.outside.key, membership.node
    store = ReplicaStore(max_bytes=settings.replication.max_kept_bytes)
    links = TcpReplicaLinks(
        key, inputs.clock, settings.replication.keeper_lag_s, settings.source_host, membership.clocks
    )
    recorder = StreamRecorder(node, store, inputs.outside.stream_records)
    manager = ReplicationManager(node, links, store, settings.replication.factor, inputs.random.random, recorder)
    checkpointer = Checkpointer(node, store, inputs.outside.checkpoints)
    takeovers = Takeovers(node, membership.signed, key, store, release_stream, checkpointer, recorder)
    server = ReplicationServer(store, membership.verifier, inputs.clock)
    return ReplicationParts(manager, server, checkpointer, recorder, takeovers)


def _make_publisher(inputs: Inputs, incarnation: int) -> StatePublisher:
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


def _make_clients(
    inputs: Inputs,
    node: NodeContext,
    engine: EngineParts,
    replication: ReplicationParts,
    drain: DrainController,
    streams: StreamRegistry,
) -> ClientParts:
    admission = AdmissionQueue(node, inputs.random.random)
    models = ModelList(node, engine.client, inputs.to_engine, inputs.settings.engine.address)
    keys = ClientKeys(node, inputs.outside.client_keys, inputs.random.random)
    audit = Audit(node, inputs.outside.audit_log)
    api = ClientApi(
        node,
        admission,
        engine.client,
        replication.manager,
        replication.takeovers,
        streams,
        drain,
        models,
        keys,
        audit,
        inputs.settings.allowed_origins,
    )
    return ClientParts(api, admission, models, keys, audit, streams)


def _make_servers(
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
    clients = HttpServer(client_api, limits, bodies=bodies, on_refused=metrics.refusal_counter("client"))
    peers = HttpServer(
        peer_api,
        # Peers' bodies are not read as documents before they are authenticated, and then only the fleet's own.
        replace(limits, document=None),
        replication.alternate_protocol(),
        bodies=bodies,
        on_refused=metrics.refusal_counter("peer"),
    )
    return clients, peers
