"""Run a node from its start to its end.

The order: open the APIs (they answer 503), tag, start the engine, serve; and when the lifecycle retires the node,
notify the peers, stop the engine, untag, close the APIs. `node_agent/composition` makes the parts.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import time
from collections.abc import Awaitable, Callable
from functools import partial
from random import Random

from node_agent.adapters.http import HttpClient
from node_agent.adapters.http_server import bind
from node_agent.adapters.process_memory import release_free_memory, resident_bytes
from node_agent.adapters.steady_clock import SteadyClock
from node_agent.composition.inputs import Inputs
from node_agent.composition.node import compose
from node_agent.contract.drain_record import DrainStepName
from node_agent.contract.states import NodeState
from node_agent.contract.table_schema import TimelineStep
from node_agent.contract.tags import NodeTags
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
from node_agent.dependencies import Dependencies, connect
from node_agent.reactor import Reactor
from node_agent.runtime.common.background_tasks import BackgroundTasks
from node_agent.runtime.common.metrics import Metrics
from node_agent.runtime.common.supervised_task import Unexpected, keep_running
from node_agent.runtime.node.deregistration import deregister
from node_agent.runtime.node.interruption_watcher import watch_metadata
from node_agent.runtime.node.memory_monitor import monitor_memory
from node_agent.settings import Settings

_TICK_S = 0.25
_ENGINE_GRACE_S = 1.0
"""No request runs at the engine any more; its shutdown is not waited for longer."""

_COPY_S = 1.0
"""The time to replicate the journals that a retiring node holds to other nodes."""

_CHECKPOINT_S = 2.0
"""The time for checkpoints of journals, and for the records of this node's streams, in parallel."""

_SERVER_DRAIN_S = 2.0
_SUPERVISOR = "engine-supervisor"
_log = logging.getLogger(__name__)


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


class Agent:
    """One node, from opening its APIs to its end.

    signals: whether this agent handles SIGTERM and SIGINT; clock: a steady one of its own by default; monotonic:
    seconds, for durations; random: of waits and choices, no secret comes from it.
    """

    def __init__(
        self,
        settings: Settings,
        outside: Dependencies,
        client: HttpClient,
        *,
        signals: bool = True,
        clock: SteadyClock | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        random: Random | None = None,
    ) -> None:
        self._settings = settings
        self._outside = outside
        self._signals = signals
        self._clock = clock or SteadyClock()
        self._random = random or Random()  # noqa: S311 # not the module's: other threads have their own
        self._reactor = Reactor(Lifecycle(settings.linger_s), self._perform)
        metrics = Metrics()
        self.parts = compose(
            Inputs(settings, outside, client, metrics, self._clock, monotonic, self._random, self._reactor.post)
        )
        self.parts.membership.cluster_keys.on_change = self._use_cluster_keys
        self.parts.membership.gossip.on_tags_differ = self.parts.publisher.publish_again
        self.unexpected = Unexpected(metrics, monotonic)
        self._background = BackgroundTasks(self.unexpected)
        self.notify: Callable[[str], None] = _ignore_state

    async def run(self) -> int:
        """Run until the node retires; return its exit code."""
        self._prepare_state_dir()
        if self.parts.certificate is not None:
            await self.parts.certificate.load_first()
        listeners = await self._listen()
        if self._signals:
            self._handle_signals()
        self._publish(Publish(NodeState.STARTING, "started", "agent", self._clock()))
        try:
            for server, listener in zip(self.parts.servers, listeners, strict=True):
                await server.start(listener)
            return await self._live()
        finally:
            await self._close()

    def request_drain(self) -> None:
        """Request a drain, as SIGTERM does."""
        now = self._clock()
        self._reactor.post(TermRequested(now, now + self._settings.term_grace_s))

    def _use_cluster_keys(self) -> None:
        membership = self.parts.membership
        self.parts.publisher.publish_keys(membership.cluster_keys.keys.key_ids)
        if membership.tls is not None:
            membership.tls.use_cluster_keys([key.secret for key in membership.cluster_keys.accepted])

    def _prepare_state_dir(self) -> None:
        try:
            self._settings.state_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:  # a disk that is full or read-only: what lies there makes the next start better
            _log.warning("the state's folder cannot be made: %s", error)
        self.parts.engine.steps.forget()

    async def _listen(self) -> tuple[socket.socket, socket.socket, socket.socket]:
        """Bind all sockets, before anything else is started; return those of the servers."""
        settings, membership = self._settings, self.parts.membership
        clients, peers, admin = settings.front, settings.peer, settings.admin
        listeners = (
            bind(clients.host, clients.port, "front door"),
            bind(peers.host, peers.port, "peer door"),
            bind(admin.host, admin.port, "admin listener"),
        )
        datagrams = bind(peers.host, peers.port, "peers' datagrams", socket.SOCK_DGRAM)
        await membership.datagrams.open(datagrams, membership.gossip.on_datagram)
        if self._settings.is_open_to_anybody:
            _log.warning("THE CLIENT API HAS NO KEYS: whoever reaches %s may use it; set SYNKTI_API_KEYS", clients)
        node = membership.node.instance_id
        _log.info("%s listens for clients on %s, for peers on %s, for metrics on %s", node, clients, peers, admin)
        return listeners

    def _handle_signals(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self.request_drain)

    async def _live(self) -> int:
        """Run the loops and the lifecycle until it retires the node; retire, and return the exit code."""
        async with asyncio.TaskGroup() as tasks:
            loops = {
                where: tasks.create_task(keep_running(where, loop, self.unexpected, self._random.random))
                for where, loop in self._loops().items()
            }
            retire = await self._reactor.run()
            await self._retire(retire, loops)
            if retire.exit_code != EXIT_DRAINED:  # give-up.sh reads it, also after the end of this process
                self.notify(f"failed: {retire.reason}")
        return retire.exit_code

    def _loops(self) -> dict[str, Callable[[], Awaitable[None]]]:
        """Return the loops of a node, by the names under which their bugs are counted."""
        parts, settings, outside = self.parts, self._settings, self._outside
        watch = partial(watch_metadata, outside.metadata, self._reactor.post, self._clock, settings.term_grace_s)
        schedule = DiscoverySchedule(settings.aws.boot_spread_s)
        discover = partial(
            parts.membership.gossip.discover, outside.instances, settings.cluster, schedule, self._random.random
        )
        loops: dict[str, Callable[[], Awaitable[None]]] = {
            _SUPERVISOR: parts.engine.supervisor.run,
            "metadata": watch,
            "discovery": discover,
            "gossip": parts.membership.gossip.run,
            "cluster-key": parts.membership.key_reader.run,
            "foreign-keys": parts.membership.foreign_keys.run,
            "clock-watch": parts.membership.clock_monitor.run,
            "engine-load": parts.engine.load.run,
            "signs": parts.peer_api.keepalives.run,
            "models": parts.clients.models.run,
            "client-keys": parts.clients.keys.run,
            "audit": parts.clients.audit.run,
            "entrance": parts.clients.admission.run,
            "key-limits": parts.clients.limits.table.run,
            "publisher": parts.publisher.run,
            "replication": parts.replication.manager.run,
            "stream-records": parts.replication.recorder.run,
            "keep-alive": parts.clients.streams.keep_alive,
            "page": parts.clients.page.run,
            "memory": partial(monitor_memory, resident_bytes, release_free_memory, self._busy_connections),
            "tick": self._tick,
        }
        if parts.certificate is not None:
            loops["certificate"] = parts.certificate.run
        return loops

    def _busy_connections(self) -> int:
        return sum(server.busy for server in self.parts.servers)

    async def _tick(self) -> None:
        """Tick the lifecycle, and measure how late the loop is, until cancelled."""
        parts, clock = self.parts, asyncio.get_running_loop().time
        while True:
            due = clock() + _TICK_S
            await asyncio.sleep(_TICK_S)
            parts.node.metrics.loop_lag.observe(max(0.0, clock() - due))
            requests = len(parts.engine.calls) + parts.clients.open_requests()
            self.notify(service_status(parts.node.state, requests))
            self._reactor.post(Tick(self._clock(), requests + parts.kv.pending_transfers()))

    async def _perform(self, effect: Effect) -> None:
        parts = self.parts
        match effect:
            case Publish():
                self._publish(effect)
            case MoveStreams():
                parts.drain.run_plan(effect.deadline)
            case CloseClients():
                parts.drain.close(parts.clients.open_requests())
                parts.clients.close_with_handoff()
            case Retire():
                raise AssertionError("the reactor keeps this one for its caller")

    def _publish(self, effect: Publish) -> None:
        parts = self.parts
        parts.node.set_state(effect.state, effect.deadline)
        parts.drain.begin(effect)
        parts.replication.recorder.on_state(effect.state, effect.deadline)
        if effect.step == "ready":
            self._background.start(parts.kv.measure_prefill())
        public_key = self._outside.node_key.public
        tags = NodeTags(
            self._settings.cluster,
            effect.state,
            self._settings.advertise_address,
            effect.deadline,
            public_key,
            parts.membership.cluster_keys.keys.key_ids,
        )
        parts.publisher.publish(tags, effect.state, TimelineStep(effect.step, effect.source, effect.at))

    async def _retire(self, retire: Retire, loops: dict[str, asyncio.Task[None]]) -> None:
        """Retire in the order that clients need: notify peers first, so that no request arrives while the rest ends."""
        _log.info("retiring: %s", retire.reason)
        parts = self.parts
        parts.node.set_state(NodeState.GONE)
        parts.membership.gossip.leave()
        await self._attempt_all(page=parts.clients.page.viewers.close())
        loops[_SUPERVISOR].cancel()  # it would start the engine again
        step = TimelineStep(retire.reason.partition(",")[0], "agent", self._clock())
        parts.publisher.publish(None, NodeState.GONE, step)
        parts.drain.record_step(DrainStepName.RETIRED)
        closing = [asyncio.ensure_future(server.close(_SERVER_DRAIN_S)) for server in parts.servers]
        replication = parts.replication
        await self._attempt_all(
            evacuate=replication.manager.copier.evacuate(_COPY_S),
            checkpoints=replication.checkpointer.write_all(_CHECKPOINT_S),
            records=replication.recorder.flush(_CHECKPOINT_S),
        )
        servers = asyncio.gather(*closing)
        engine = parts.engine.supervisor.stop(_ENGINE_GRACE_S)
        await self._attempt_all(engine=engine, deregister=self._deregister(), servers=servers)
        await self._attempt_all(audit=parts.clients.audit.flush())
        for loop in loops.values():
            loop.cancel()
        replication.manager.close()
        parts.kv.close()
        replication.server.close()

    async def _attempt_all(self, **steps: Awaitable[object]) -> None:
        """Wait for steps of the retirement, at once; a bug in one ends neither the others nor the retirement."""
        await asyncio.gather(*(self.unexpected.attempt(f"retire-{name}", step) for name, step in steps.items()))

    async def _deregister(self) -> None:
        await deregister(
            self.parts.node.instance_id,
            self.parts.publisher,
            self._outside.instances,
            self._outside.group,
            self.unexpected,
            lambda: self.parts.drain.record_step(DrainStepName.UNTAGGED),
        )

    async def _close(self) -> None:
        """Close what is still open, whatever ended the node."""
        parts = self.parts
        for server in parts.servers:
            server.abort()
        parts.replication.server.close()
        parts.membership.datagrams.close()
        await parts.membership.to_peers.close()
        await parts.engine.supervisor.stop(0.0)  # an engine without its agent serves no request
