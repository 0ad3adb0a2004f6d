"""Compose a node: make its parts, feature by feature, and connect them.

Nothing runs yet: `node_agent/agent.py` starts the parts and ends them. The parts of a feature are one value; a function
makes it from the inputs, and from the features below it.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Protocol

from node_agent.adapters.certificate_files import CertificateFiles
from node_agent.adapters.control_tokens import read_control_tokens
from node_agent.adapters.datagrams import UdpDatagrams
from node_agent.adapters.engine_process import EngineProcess
from node_agent.adapters.engine_steps import STEPS_DIR, EngineStepFiles
from node_agent.adapters.engine_unit import EngineUnit
from node_agent.adapters.http import HttpClient
from node_agent.adapters.http_limits import Limits
from node_agent.adapters.http_server import HttpServer
from node_agent.adapters.peer_tls import PeerTls
from node_agent.adapters.replication_client import TcpReplicaLinks
from node_agent.adapters.steady_clock import SteadyClock
from node_agent.contract.states import NodeState
from node_agent.contract.table_schema import NodeRecord, renewed
from node_agent.core.common.address import Address
from node_agent.core.common.cluster_keys import ClusterKeys, parse_cluster_keys
from node_agent.core.common.request_auth import Refusal, RequestVerifier
from node_agent.core.http.body_budget import BodyBudget
from node_agent.core.journal.stream_claim import StreamClaim
from node_agent.core.kv.blocks import NAMES_KEY, names_key
from node_agent.core.membership import Cause, MemberChanged, Membership
from node_agent.core.membership.pair_keys import PairMessageKeys
from node_agent.core.membership.wire.messages import BOOT_ID_BYTES
from node_agent.core.node.lifecycle import Event, TermRequested
from node_agent.core.node.peer_clocks import PeerClocks
from node_agent.core.node.peer_keyring import PeerKeyring
from node_agent.core.node.request_signer import PeerName, RequestSigner
from node_agent.core.node.status import NodeStatus, Pool
from node_agent.core.node.vouched_nodes import VouchedNodes
from node_agent.core.policy.request_policy import RequestPolicy
from node_agent.core.replication.replica_store import ReplicaStore
from node_agent.dependencies import Dependencies
from node_agent.kv.folder import MAX_WRITERS, BlockFolder
from node_agent.ports import EngineGroup, Identity, PeerKeys
from node_agent.runtime.admin_api.server import AdminApi
from node_agent.runtime.client_api.admission_queue import AdmissionQueue
from node_agent.runtime.client_api.audit import Audit
from node_agent.runtime.client_api.certificate_watcher import CertificateWatcher
from node_agent.runtime.client_api.client_keys import ClientKeys
from node_agent.runtime.client_api.key_limits import KeyLimiter
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
from node_agent.runtime.node.cluster_key_reader import ClusterKeyReader
from node_agent.runtime.node.context import NodeContext
from node_agent.runtime.node.foreign_keys import ForeignKeyMonitor
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

_ADMIN_BODY_BYTES = 64 * 1024
_ADMIN_CONNECTIONS = 128


class PeerLost(Protocol):
    """Receives a peer that is dead or shut out, by its instance id."""

    def __call__(self, instance_id: str, *, is_shut_out: bool) -> None:
        """Receive it."""


SHUT_OUT_WITHIN_S = 6.0
"""How long a node that was shut out may take to end its clients' streams, which continue elsewhere."""


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

    membership = _make_membership(inputs, on_peer_lost)
    node = membership.node
    kv = _make_kv(inputs, membership)
    engine = _make_engine(inputs, membership, kv)
    streams = StreamRegistry(inputs.metrics, inputs.settings.limits.max_streams)
    replication = _make_replication(inputs, membership, streams.release)
    publisher = _make_publisher(inputs, node.incarnation)
    drain = DrainController(node, engine.calls, publisher.put_drain, kv.handed_off)
    clients = _make_clients(inputs, node, engine, replication, streams)
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
        *_make_servers(inputs, clients.api, peer_api, replication.server),
        _make_admin(inputs, node, drain, clients.keys),
    )
    certificate = _make_certificate(inputs, servers[0])
    if (tls := membership.tls) is not None:
        servers[1].use_tls(lambda: tls.server, tls)
    return Parts(membership, kv, engine, replication, publisher, drain, clients, peer_api, servers, certificate)


def _make_certificate(inputs: Inputs, clients: HttpServer) -> CertificateWatcher | None:
    tls = inputs.settings.tls
    if tls.certificate is None or tls.key is None:
        return None
    watcher = CertificateWatcher(CertificateFiles(tls.certificate, tls.key), inputs.metrics, inputs.clock)
    clients.use_tls(watcher.context)
    return watcher


def _make_membership(inputs: Inputs, on_peer_lost: PeerLost) -> MembershipParts:
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
        return None if found is None else PeerName(found[0], found[1].hex() if found[1] else None)

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


def _make_kv(inputs: Inputs, membership: MembershipParts) -> KvService:
    settings, outside = inputs.settings, inputs.outside
    folder = BlockFolder(settings.kv_dir, settings.kv_max_bytes, MAX_WRITERS) if settings.kv_max_bytes else None
    return KvService(
        membership.node,
        inputs.to_engine,
        membership.signed,
        settings.engine.address,
        folder,
        outside.blocks,
        inputs.random,
    )


def _make_engine(inputs: Inputs, membership: MembershipParts, kv: KvService) -> EngineParts:
    settings, node = inputs.settings, membership.node
    calls = EngineCalls(node, inputs.to_engine, settings.engine.address)
    client = EngineClient(node, calls, membership.signed, kv.fetcher.fetch)
    group = engine_group(settings, os.environ, membership.cluster_keys.current.secret)
    steps = EngineStepFiles(settings.steps_dir)
    load = LoadMonitor(node, calls, inputs.to_engine, settings.engine.address, kv.prefill_tokens_per_s)
    watchdog = EngineWatchdog(
        node, calls, load, inputs.to_engine, settings.engine.address, steps, group.is_suspended, settings.engine.stuck_s
    )
    supervisor = _make_supervisor(inputs, node, group, calls.lifetimes, watchdog)
    return EngineParts(calls, client, steps, load, supervisor)


def engine_group(settings: Settings, environ: Mapping[str, str], cluster_secret: bytes) -> EngineGroup:
    """Return what runs the engine: its own unit where there is one, which has variables of its own, or this process."""
    argv = settings.engine_argv
    if settings.engine.socket is not None:
        return EngineUnit(argv, engine_environ(settings, {}, cluster_secret), settings.engine.socket)
    environ = engine_environ(settings, environ, cluster_secret)
    return EngineProcess(argv, environ, settings.state_dir / "engine.group")


def engine_environ(settings: Settings, environ: Mapping[str, str], cluster_secret: bytes) -> dict[str, str]:
    """Return `environ`, and what the engine needs of this agent: where the plug-in counts the core's steps.

    An engine that keeps blocks imports from this package (`node_agent/kv`), and gets a secret for their names, which is
    made from the cluster's key. It follows no redirect of a
    medium's URL, which could lead from an allowed domain to any address.
    """
    environ = {**environ, STEPS_DIR: str(settings.steps_dir), "VLLM_MEDIA_URL_ALLOW_REDIRECTS": "0"}
    if not settings.kv_max_bytes:
        return environ
    above = str(Path(__file__).resolve().parents[1])
    environ[NAMES_KEY] = names_key(cluster_secret).hex()
    return {**environ, "PYTHONPATH": os.pathsep.join(filter(None, (above, environ.get("PYTHONPATH"))))}


def _make_supervisor(
    inputs: Inputs, node: NodeContext, group: EngineGroup, lifetimes: LifetimeTracker, watchdog: EngineWatchdog
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
    settings, node = inputs.settings, membership.node
    store = ReplicaStore(max_bytes=settings.replication.max_kept_bytes)
    links = TcpReplicaLinks(
        membership.signer, inputs.clock, settings.replication.keeper_lag_s, settings.source_host, membership.tls
    )
    recorder = StreamRecorder(node, store, inputs.outside.stream_records)
    manager = ReplicationManager(node, links, store, settings.replication.factor, inputs.random.random, recorder)
    checkpointer = Checkpointer(node, store, inputs.outside.checkpoints)
    takeovers = Takeovers(node, membership.signed, store, release_stream, checkpointer, recorder)
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
    streams: StreamRegistry,
) -> ClientParts:
    admission = AdmissionQueue(node, inputs.random.random)
    models = ModelList(node, engine.client, inputs.to_engine, inputs.settings.engine.address)
    limits = KeyLimiter(node, admission.charge)
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
        RequestPolicy(inputs.settings.policy, read_control_tokens(inputs.settings.model_dir), inputs.outside.key),
    )
    return ClientParts(api, admission, limits, models, keys, audit, streams)


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


def _make_admin(inputs: Inputs, node: NodeContext, drain: DrainController, keys: ClientKeys) -> HttpServer:
    """Make the admin API's server, whose bounds are its own: a node that is full of clients still has metrics."""
    limits = Limits(
        body_bytes=_ADMIN_BODY_BYTES,
        connections=_ADMIN_CONNECTIONS,
        connections_per_address=_ADMIN_CONNECTIONS,
        unread_s=inputs.settings.limits.unread_s,
    )
    return HttpServer(
        AdminApi(node, drain, keys.identify, lambda: keys.state),
        limits,
        on_refused=inputs.metrics.refusal_counter("admin"),
    )
