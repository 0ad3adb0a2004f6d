"""Make the local engine's supervision, its requests, and the service of its KV blocks."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from node_agent.adapters.engine_process import EngineProcess
from node_agent.adapters.engine_steps import STEPS_DIR, EngineStepFiles
from node_agent.adapters.engine_unit import EngineUnit
from node_agent.composition.inputs import Inputs
from node_agent.composition.membership import MembershipParts
from node_agent.core.kv.blocks import NAMES_KEY, names_key
from node_agent.kv.folder import MAX_WRITERS, BlockFolder
from node_agent.ports import EngineGroup
from node_agent.runtime.engine.active_requests import EngineCalls
from node_agent.runtime.engine.client import EngineClient
from node_agent.runtime.engine.lifetime_tracker import LifetimeTracker
from node_agent.runtime.engine.load_monitor import LoadMonitor
from node_agent.runtime.engine.self_test import supported_methods
from node_agent.runtime.engine.supervisor import EnginePlan, EngineSupervisor
from node_agent.runtime.engine.watchdog import EngineWatchdog
from node_agent.runtime.kv.service import KvService
from node_agent.runtime.node.context import NodeContext
from node_agent.settings import Settings


@dataclass(frozen=True)
class EngineParts:
    """The local engine, its requests, and the client of all engines of the fleet."""

    calls: EngineCalls
    client: EngineClient
    steps: EngineStepFiles
    load: LoadMonitor
    supervisor: EngineSupervisor


def make_kv(inputs: Inputs, membership: MembershipParts) -> KvService:
    """Make the service of KV blocks; without room for blocks it only computes contexts."""
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


def make_engine(inputs: Inputs, membership: MembershipParts, kv: KvService) -> EngineParts:
    """Make what supervises the local engine, and the client of all engines."""
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
    made from the cluster's key. It follows no redirect of a medium's URL, which could lead from an allowed domain to
    any address.
    """
    environ = {**environ, STEPS_DIR: str(settings.steps_dir), "VLLM_MEDIA_URL_ALLOW_REDIRECTS": "0"}
    if not settings.kv_max_bytes:
        return environ
    above = str(Path(__file__).resolve().parents[2])
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
