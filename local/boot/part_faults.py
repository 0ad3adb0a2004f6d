"""Faults inside a running instance: the kernel is out of memory, the agent hangs, the disk is full."""

from __future__ import annotations

import asyncio
import time

from local.boot.machine import BootedInstance
from local.boot.memory import run_out_of_memory
from local.boot.scene import READY_WITHIN_S, Scene, require

_RESTART_WITHIN_S = 90.0
_WATCHDOG_WITHIN_S = 120.0
_TOKENS = 50


async def out_of_memory(scene: Scene) -> None:
    """The kernel kills the agent, then the engine of another node: each is restarted. Raises LocalRunError.

    An agent that dies takes its engine along, because its connection to the engine's launcher is the engine's lease; an
    engine that dies does not take its agent along (docs/decisions/0038).
    """
    for target, victim in zip(await scene.fleet(), ("agent", "engine"), strict=True):
        agent, engine = await scene.processes(target)
        before = await _restarts(scene, target)
        await asyncio.to_thread(run_out_of_memory, target.container, agent if victim == "agent" else engine)
        scene.screen.log(f"{target.instance_id}: the kernel killed the {victim}, out of memory")
        took = await _restarted(scene, target, agent, engine)
        now_agent, now_engine = await scene.processes(target)
        left = await scene.inside(target, f"ps --no-headers --pid {engine} || true")
        require(now_engine != engine and not left.strip(), f"the engine was not restarted: {left}")
        restarts = await _restarts(scene, target) - before
        if victim == "engine":
            require(now_agent == agent, "the agent was restarted although only its engine was killed")
            require(restarts == 0, f"systemd restarted the agent {restarts} times")
        else:
            require(now_agent != agent, "the agent was not restarted")
            require(restarts == 1, f"systemd restarted the agent {restarts} times")
        await scene.require_engine_unit(target)
        scene.screen.log(f"the node serves again, {took:.0f} s later")
    instances = await scene.fleet()
    await scene.stream(instances[0], _TOKENS)


async def watchdog(scene: Scene) -> None:
    """The agent hangs: systemd ends it, its last log says why, and it serves again. Raises LocalRunError."""
    target = (await scene.fleet())[0]
    agent, engine = await scene.processes(target)
    await scene.inside(target, f"kill -STOP {agent}")
    took = await _restarted(scene, target, agent, engine, _WATCHDOG_WITHIN_S)
    scene.screen.log(
        f"{target.instance_id}: the stopped agent was ended and started again, {took:.0f} s after its stop"
    )
    log = await scene.last_log(target.instance_id, "watchdog")
    require("Watchdog timeout" in log, f"the last log has no word of the watchdog:\n{log[-2_000:]}")
    await scene.fleet()


async def full_disk(scene: Scene) -> None:
    """The root volume is full: the node serves, and its agent can be restarted. Raises LocalRunError."""
    instances = await scene.fleet()
    target = instances[0]
    await asyncio.to_thread(target.container.fill_disk)
    free = await scene.inside(target, "df --output=avail -B1 / | tail -1")
    require(int(free) == 0, f"{free.strip()} bytes are free")
    await scene.stream(target, _TOKENS)
    scene.screen.log(f"{target.instance_id}: no byte is free, and a stream is served")
    agent, engine = await scene.processes(target)
    await scene.inside(target, "systemctl restart synkti.service", timeout_s=150)
    await _restarted(scene, target, agent, engine)
    scene.screen.log("its agent was restarted on the full disk and serves")
    await scene.stream(target, _TOKENS)
    await asyncio.to_thread(target.container.free_disk)
    await scene.fleet()


async def _restarts(scene: Scene, instance: BootedInstance) -> int:
    """Return how often systemd has restarted the agent."""
    return int((await scene.unit(instance, "synkti.service"))["NRestarts"])


async def _restarted(
    scene: Scene, instance: BootedInstance, agent: str, engine: str, within_s: float = _RESTART_WITHIN_S
) -> float:
    """Wait until the agent or its engine is another process, and the node serves; return the seconds until then."""
    began = time.monotonic()

    async def another() -> bool:
        return await scene.processes(instance) != (agent, engine)

    await scene.until("the agent or its engine is started again", another, within_s)
    await scene.until(f"{instance.instance_id} serves again", lambda: scene.is_ready(instance), READY_WITHIN_S)
    return time.monotonic() - began
