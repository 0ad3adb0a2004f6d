"""The composition root: makes, wires, runs and ends every part of the node.

Its order: identify this instance, open the APIs (they answer 503), tag, start the engine, serve; and when the lifecycle
retires the node, notify the peers, stop the engine, untag, close the APIs.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import secrets
import signal
import socket
import time
from collections.abc import Callable, Coroutine
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from node_agent.adapters.datagrams import UdpDatagrams
from node_agent.adapters.engine_process import EngineProcess
from node_agent.adapters.engine_steps import STEPS_DIR, EngineStepFiles
from node_agent.adapters.http import HttpClient
from node_agent.adapters.http_limits import Limits
from node_agent.adapters.http_server import HttpServer, bind
from node_agent.adapters.process_memory import release_free_memory, resident_bytes, return_large_blocks
from node_agent.adapters.replication_client import TcpReplicaLinks
from node_agent.adapters.steady_clock import SteadyClock
from node_agent.contract.drain_record import DrainStepName
from node_agent.contract.errors import TransientError
from node_agent.contract.states import NodeState
from node_agent.contract.table_schema import NodeRecord, TimelineStep, renewed
from node_agent.contract.tags import NodeTags
from node_agent.core.common.address import Address
from node_agent.core.common.request_auth import RequestVerifier
from node_agent.core.http.body_budget import BodyBudget
from node_agent.core.membership import Leaving, MemberChanged, Membership
from node_agent.core.membership.wire.messages import BOOT_ID_BYTES
from node_agent.core.node.discovery_schedule import DiscoverySchedule
from node_agent.core.node.lifecycle import (
    EXIT_DRAINED,
    CloseClients,
    Effect,
    Lifecycle,
    MoveStreams,
    Publish,
    Retire,
    TermRequested,
    Tick,
    service_status,
)
from node_agent.core.node.peer_clocks import PeerClocks
from node_agent.core.node.status import NodeStatus, Pool
from node_agent.core.replication.replica_store import ReplicaStore
from node_agent.dependencies import Dependencies, connect
from node_agent.kv.folder import MAX_WRITERS, BlockFolder
from node_agent.ports import Identity
from node_agent.reactor import Reactor
from node_agent.runtime.client_api.admission_queue import AdmissionQueue
from node_agent.runtime.client_api.model_list import ModelList
from node_agent.runtime.client_api.server import ClientApi
from node_agent.runtime.client_api.stream_registry import StreamRegistry
from node_agent.runtime.common.metrics import Metrics
from node_agent.runtime.common.supervised_task import Unexpected, keep_running
from node_agent.runtime.drain.controller import DrainController
from node_agent.runtime.engine.active_requests import EngineCalls, WatchedGroup
from node_agent.runtime.engine.client import EngineClient
from node_agent.runtime.engine.load_monitor import LoadMonitor
from node_agent.runtime.engine.self_test import supported_methods
from node_agent.runtime.engine.supervisor import EnginePlan, EngineSupervisor
from node_agent.runtime.engine.watchdog import EngineWatchdog
from node_agent.runtime.kv.service import KvService
from node_agent.runtime.node.clock_monitor import ClockMonitor
from node_agent.runtime.node.context import NodeContext
from node_agent.runtime.node.gossip import Gossip, is_lost
from node_agent.runtime.node.interruption_watcher import watch_metadata
from node_agent.runtime.node.memory_monitor import monitor_memory
from node_agent.runtime.node.state_publisher import StatePublisher
from node_agent.runtime.peer_api.server import PeerApi
from node_agent.runtime.peer_api.signed_client import SignedClient
from node_agent.runtime.replication.checkpointer import Checkpointer
from node_agent.runtime.replication.manager import ReplicationManager
from node_agent.runtime.replication.server import ReplicationServer
from node_agent.runtime.replication.takeover import Takeovers
from node_agent.settings import Settings

_TICK_S = 0.25
_ENGINE_GRACE_S = 1.0
"""No request runs at the engine any more; its shutdown is not waited for longer."""

_COPY_S = 1.0
"""The time to replicate the journals that a retiring node holds to other nodes."""

_CHECKPOINT_S = 2.0
"""The time for checkpoints of journals, in parallel."""

_FLUSH_S = 1.5
_UNTAG_S = 2.0
"""An EC2 that does not respond must not delay the report to the group that this node has drained."""

_LET_GO_S = 2.0
_SERVER_DRAIN_S = 2.0
_log = logging.getLogger(__name__)


def tune_gc() -> None:
    """Freeze the objects that exist after all imports, so that the garbage collector never searches them.

    With Python's own thresholds the search of boto3's tens of thousands of objects took a fifth of a token's CPU. With
    these it looks at old objects hardly ever: `runtime/node/memory_monitor` does it, where there is a reason.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 50, 100)
    return_large_blocks()


def _ignore_state(word: str) -> None:
    """Ignore the state: no supervisor runs the agent."""


async def run(settings: Settings, say: Callable[[str], None] = _ignore_state) -> int:
    """Run a node from start to end. Raises ConfigurationError.

    say: receives the service state, at each change.

    Returns:
        The exit code of the process.
    """
    client = HttpClient()
    outside = await connect(settings, client)
    agent = Agent(settings, outside, client)
    agent.notify = say
    asyncio.get_running_loop().set_exception_handler(agent.unexpected.handle_loop_exception)
    try:
        return await agent.run()
    finally:
        await client.close()


def _first_status(settings: Settings, identity: Identity) -> NodeStatus:
    """Return this node's status before anything is ready."""
    peer = settings.advertise_address or str(Address(identity.private_address, settings.peer.port))
    return NodeStatus(
        instance_id=identity.instance_id,
        peer_address=peer,
        client_address=str(Address(peer.rpartition(":")[0], settings.front.port)),
        state=NodeState.STARTING,
        pool=Pool(identity.zone, identity.instance_type),
        model=settings.model_name,
        incarnation=int(time.time() * 1000),
    )


def _engine_environ(settings: Settings) -> dict[str, str]:
    """Return the engine's environment: the agent's own, and where the plug-in counts the core's steps.

    An engine that keeps blocks imports from this package there (`node_agent/kv`).
    """
    environ = {**os.environ, STEPS_DIR: str(_steps_dir(settings))}
    if not settings.kv_max_bytes:
        return environ
    above = str(Path(__file__).resolve().parents[1])
    return {**environ, "PYTHONPATH": os.pathsep.join(filter(None, (above, os.environ.get("PYTHONPATH"))))}


def _steps_dir(settings: Settings) -> Path:
    return settings.state_dir / "steps"


class Agent:
    """One node, from opening its APIs to its end.

    signals: whether this agent handles SIGTERM and SIGINT; clock: a steady one of its own by default; random: of waits
    and choices, no secret comes from it.
    """

    def __init__(
        self,
        settings: Settings,
        outside: Dependencies,
        client: HttpClient,
        *,
        signals: bool = True,
        clock: SteadyClock | None = None,
        random: Random | None = None,
    ) -> None:
        self._settings = settings
        self._random = random or Random()  # noqa: S311 # not the module's: other threads have their own
        self._signals = signals
        identity = outside.identity
        # To peers from the address where they reach this node, so that a network's rules can tell nodes apart.
        source = None if settings.peer.host == "0.0.0.0" else settings.peer.host  # noqa: S104 # it is compared
        self._to_peers = HttpClient(source)
        self._datagrams = UdpDatagrams()
        metrics = Metrics()
        self.unexpected = Unexpected(metrics, time.monotonic)
        status = _first_status(settings, identity)
        self._gossip = self._make_gossip(status, outside.key, metrics)
        self._clock = clock = clock or SteadyClock()
        self._node = NodeContext(identity, settings.model_name, clock, self._gossip, metrics, settings.min_silence_s)
        self._node.clocks = clocks = PeerClocks(outside.key)
        signed = SignedClient(self._to_peers, clocks, clock)
        self._engine_calls = EngineCalls(self._node, client, settings.engine)
        folder = BlockFolder(settings.kv_dir, settings.kv_max_bytes, MAX_WRITERS) if settings.kv_max_bytes else None
        self.kv = KvService(
            self._node, client, signed, outside.key, settings.engine, folder, outside.blocks, self._random
        )
        self._engines = EngineClient(self._node, self._engine_calls, signed, outside.key, self.kv.fetcher.fetch)
        store = ReplicaStore(max_bytes=settings.max_kept_bytes)
        self.replication = ReplicationManager(
            self._node,
            TcpReplicaLinks(outside.key, clock, settings.keeper_lag_s, source, clocks),
            store,
            settings.keepers if settings.durability == "peer" else 0,
            self._random.random,
        )
        self.streams = StreamRegistry(self._node.metrics, settings.max_streams)
        self._checkpointer = Checkpointer(self._node, store, outside.checkpoints)
        takeovers = Takeovers(self._node, signed, outside.key, store, self.streams.release, self._checkpointer)
        self._publisher = self._make_publisher(outside, status.incarnation, clock)
        self._drain_controller = DrainController(
            self._node, self._engine_calls, self._publisher.put_drain, self.kv.handed_off
        )
        self._admission = AdmissionQueue(self._node, self._random.random)
        self._models = ModelList(self._node, self._engines, client, settings.engine)
        self._client_api = ClientApi(
            self._node,
            self._admission,
            self._engines,
            self.replication,
            takeovers,
            self.streams,
            self._drain_controller,
            self._models,
            settings.allowed_origins,
        )
        verifier = RequestVerifier(outside.key, audience=secrets.token_hex(8))
        self.replication_server = ReplicationServer(store, verifier, clock)
        peer_api = PeerApi(
            self._node, self._engine_calls, takeovers, verifier, self.kv.fetcher.fetch, self.kv.server.answer
        )
        self._keepalives = peer_api.keepalives
        self.servers = self._make_servers(settings, peer_api)
        self._outside = outside
        self._client = client
        self._reactor = Reactor(Lifecycle(settings.linger_s), self._perform)
        self._clock_monitor = ClockMonitor(self._node, clocks, clock.wall_ahead_s, self._reactor.post)
        group = EngineProcess(settings.engine_argv, _engine_environ(settings), settings.state_dir / "engine.group")
        self._group = WatchedGroup(group, self._engine_calls, metrics.engine_starts.inc)
        self._steps = EngineStepFiles(_steps_dir(settings))
        self._engine_load = LoadMonitor(
            self._node, self._engine_calls, client, settings.engine, lambda: self.kv.fetcher.prefill_tokens_per_s or 0.0
        )
        self._supervisor = self._make_supervisor(settings, client)
        self._background: set[asyncio.Task[None]] = set()
        self.notify: Callable[[str], None] = _ignore_state

    def _make_gossip(self, status: NodeStatus, key: bytes, metrics: Metrics) -> Gossip:
        boot_id = secrets.token_bytes(BOOT_ID_BYTES)
        return Gossip(
            Membership(status, boot_id, key, time.monotonic(), self._random.random),
            self._datagrams,
            self._to_peers,
            time.monotonic,
            metrics,
            on_change=self._on_member_change,
            on_peer_clock=self._on_peer_clock,
        )

    def _make_supervisor(self, settings: Settings, client: HttpClient) -> EngineSupervisor:
        """Make the supervisor of the local engine, with the watchdog that reports when the engine is stuck."""
        watchdog = EngineWatchdog(
            self._node,
            self._engine_calls,
            self._engine_load,
            client,
            settings.engine,
            self._steps,
            self._group.is_suspended,
            settings.engine_stuck_s,
        )
        return EngineSupervisor(
            EnginePlan(settings.engine, settings.model_name, settings.engine_start_s, settings.engine_restarts),
            self._group,
            client,
            self._reactor.post,
            self._clock,
            self._random.random,
            self._examine_engine,
            watchdog.until_stuck,
        )

    def _on_member_change(self, change: MemberChanged) -> None:
        """Fail the requests at a peer that is dead now."""
        if is_lost(change):
            self._engines.abort_peer(change.status.instance_id)

    def _on_peer_clock(self, address: str, line: str, nonce: str, took_s: float) -> None:
        self._clock_monitor.on_peer_clock(address, line, nonce, took_s)

    def _make_servers(self, settings: Settings, peer_api: PeerApi) -> list[HttpServer]:
        """Make the servers of the client API and the peer API; one bound holds for the bodies of both."""
        limits = Limits(
            body_bytes=settings.max_body_bytes,
            bodies_bytes=settings.max_bodies_bytes,
            connections=settings.max_connections,
            connections_per_address=settings.max_connections_per_address,
            unread_s=settings.unread_s,
        )
        bodies, metrics = BodyBudget(limits.bodies_bytes), self._node.metrics
        metrics.body_bytes.set_function(lambda: bodies.held_bytes)
        front = HttpServer(self._client_api, limits, bodies=bodies, on_refused=metrics.refusal_counter("client"))
        # Peers' bodies are not read as documents before they are authenticated, and then only the fleet's own.
        of_peers = replace(limits, document=None)
        peers = HttpServer(
            peer_api,
            of_peers,
            self.replication_server.alternate_protocol(),
            bodies=bodies,
            on_refused=metrics.refusal_counter("peer"),
        )
        return [front, peers]

    def _make_publisher(self, outside: Dependencies, incarnation: int, clock: Callable[[], float]) -> StatePublisher:
        identity = outside.identity
        record = NodeRecord(
            instance_id=identity.instance_id,
            zone=identity.zone,
            instance_type=identity.instance_type,
            state=NodeState.STARTING,
            incarnation=incarnation,
            expires_at=renewed(clock()),
        )
        return StatePublisher(record, outside.instances, outside.records, self._random.random, clock)

    async def _examine_engine(self) -> None:
        """Run the self-test: peers may use only the methods that it saw working."""
        self._node.continuation_methods = ()
        self._node.continuation_methods = await supported_methods(
            self._client, self._settings.engine, self._settings.model_name
        )

    async def run(self) -> int:
        """Run until the node retires; return its exit code."""
        try:
            self._settings.state_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:  # a disk that is full or read-only: what lies there makes the next start better
            _log.warning("the state's folder cannot be made: %s", error)
        self._steps.forget()
        settings = self._settings
        front_socket = bind(settings.front.host, settings.front.port, "front door")
        peer_socket = bind(settings.peer.host, settings.peer.port, "peer door")
        await self._datagrams.open(
            bind(settings.peer.host, settings.peer.port, "peers' datagrams", socket.SOCK_DGRAM),
            self._gossip.on_datagram,
        )
        if self._signals:
            self._handle_signals()
        self._publish(Publish(NodeState.STARTING, "started", "agent", self._clock()))
        _log.info(
            "%s listens for clients on %s, for peers on %s", self._node.instance_id, settings.front, settings.peer
        )
        try:
            return await self._live((front_socket, peer_socket))
        finally:
            for server in self.servers:
                server.abort()
            self.replication_server.close()
            self._datagrams.close()
            await self._to_peers.close()
            await self._group.stop(0.0)  # whatever happened: an engine without its agent serves no request

    async def _live(self, listeners: tuple[socket.socket, socket.socket]) -> int:
        for server, listener in zip(self.servers, listeners, strict=True):
            await server.start(listener)
        reads = DiscoverySchedule(self._settings.boot_spread_s)
        watch = partial(
            watch_metadata, self._outside.metadata, self._reactor.post, self._clock, self._settings.term_grace_s
        )
        discover = partial(
            self._gossip.discover, self._outside.instances, self._settings.cluster, reads, self._random.random
        )
        async with asyncio.TaskGroup() as tasks:
            loops = [
                tasks.create_task(keep_running(where, loop, self.unexpected, self._random.random))
                for where, loop in (
                    ("engine-supervisor", self._supervisor.run),
                    ("metadata", watch),
                    ("discovery", discover),
                    ("gossip", self._gossip.run),
                    ("clock-watch", self._clock_monitor.run),
                    ("engine-load", self._engine_load.run),
                    ("signs", self._keepalives.run),
                    ("models", self._models.run),
                    ("entrance", self._admission.run),
                    ("publisher", self._publisher.run),
                    ("replication", self.replication.run),
                    ("keep-alive", self.streams.keep_alive),
                    ("memory", partial(monitor_memory, resident_bytes, release_free_memory, self._busy)),
                    ("tick", self._tick),
                )
            ]
            retire = await self._reactor.run()
            await self._retire(retire, loops)
            if retire.exit_code != EXIT_DRAINED:  # give-up.sh reads it, also after the end of this process
                self.notify(f"failed: {retire.reason}")
        return retire.exit_code

    def request_drain(self) -> None:
        """Request a drain, as SIGTERM does."""
        now = self._clock()
        self._reactor.post(TermRequested(now, now + self._settings.term_grace_s))

    def _handle_signals(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self.request_drain)

    async def _tick(self) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            due = clock() + _TICK_S
            await asyncio.sleep(_TICK_S)
            self._node.metrics.loop_lag.observe(max(0.0, clock() - due))
            clients = len(self.streams) + len(self._client_api.buffered_requests)
            self.notify(service_status(self._node.state, len(self._engine_calls) + clients))
            self._reactor.post(Tick(self._clock(), len(self._engine_calls) + clients + self.kv.pending_transfers()))

    def _busy(self) -> int:
        return sum(server.busy for server in self.servers)

    async def _perform(self, effect: Effect) -> None:
        match effect:
            case Publish():
                self._publish(effect)
            case MoveStreams():
                self._drain_controller.run_plan(effect.deadline)
            case CloseClients():
                self._drain_controller.close(len(self.streams) + len(self._client_api.buffered_requests))
                for stream in self.streams:
                    stream.close_with_handoff()
                self._client_api.buffered_requests.close_with_handoff()
            case Retire():
                raise AssertionError("the reactor keeps this one for its caller")

    def _publish(self, effect: Publish) -> None:
        self._node.set_state(effect.state)
        self._drain_controller.begin(effect)
        if effect.step == "ready":
            self._in_background(self.kv.measure_prefill())
        tags = NodeTags(self._settings.cluster, effect.state, self._settings.advertise_address, effect.deadline)
        self._publisher.publish(tags, effect.state, TimelineStep(effect.step, effect.source, effect.at))

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._background.add(task)  # the loop holds tasks weakly
        task.add_done_callback(self._on_background_done)

    def _on_background_done(self, task: asyncio.Task[None]) -> None:
        self._background.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.unexpected.report("background", error)

    async def _retire(self, retire: Retire, loops: list[asyncio.Task[None]]) -> None:
        """Retire in the order that clients need: notify peers first, so that no request arrives while the rest ends."""
        _log.info("retiring: %s", retire.reason)
        self._node.set_state(NodeState.GONE)
        self._gossip.handle(Leaving(time.monotonic()))
        loops[0].cancel()  # the supervisor would start the engine again
        step = TimelineStep(retire.reason.partition(",")[0], "agent", self._clock())
        self._publisher.publish(None, NodeState.GONE, step)
        self._drain_controller.record_step(DrainStepName.RETIRED)
        closing = [asyncio.ensure_future(server.close(_SERVER_DRAIN_S)) for server in self.servers]
        await asyncio.gather(self.replication.evacuate(_COPY_S), self._checkpointer.write_all(_CHECKPOINT_S))
        await asyncio.gather(self._group.stop(_ENGINE_GRACE_S), self._leave_tags(), *closing)
        for loop in loops:
            loop.cancel()
        self.replication.close()
        self.kv.close()
        self.replication_server.close()

    async def _leave_tags(self) -> None:
        if not await self._publisher.flush(_FLUSH_S):
            _log.warning("the last step of the timeline could not be written in time")
        with contextlib.suppress(TransientError, TimeoutError):
            async with asyncio.timeout(_UNTAG_S):
                await self._outside.instances.untag(self._node.instance_id)
            self._drain_controller.record_step(DrainStepName.UNTAGGED)
            await self._publisher.flush(_FLUSH_S)
        if self._outside.group is not None:
            with contextlib.suppress(TransientError, TimeoutError):
                async with asyncio.timeout(_LET_GO_S):
                    await self._outside.group.complete_termination(self._node.instance_id)
