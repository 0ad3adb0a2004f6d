"""Ends of an instance, and of its time: an interruption notice, a power-off, a reboot."""

from __future__ import annotations

import asyncio
import time

from local.boot.machine import BootedInstance
from local.boot.scene import READY_WITHIN_S, Scene, require
from local.demo.client import StreamResult
from node_agent.contract.tags import STATE_TAG

NOTICE_LEAD_S = 25.0
"""EC2 gives about 120 s; so much less that the stream cannot finish at its engine."""

_TOKENS = 1_400
_PROBE_TOKENS = 1
_INTERRUPT_AFTER = 20
_POWER_OFF_WITHIN_S = 150.0
_REBOOT_WITHIN_S = 180.0


async def notice(scene: Scene) -> None:
    """An interruption notice in the middle of a stream: hand-off, drain, last log, end, replacement.

    Raises LocalRunError.
    """
    instances = await scene.fleet()
    engine_node = (await scene.stream(instances[0], _PROBE_TOKENS)).node
    target = scene.emulator.instance(engine_node)
    entry = next(instance for instance in instances if instance is not target)
    began: list[float] = []

    def interrupt(result: StreamResult) -> None:
        if len(result.token_ids) >= _INTERRUPT_AFTER and not began:
            began.append(time.monotonic())
            scene.screen.log(f"a notice for {engine_node}, the stream's engine node, {NOTICE_LEAD_S:.0f} s ahead")
            tasks.append(asyncio.create_task(scene.emulator.interrupt(target, NOTICE_LEAD_S)))

    tasks: list[asyncio.Task[None]] = []
    result = await scene.stream(entry, _TOKENS, interrupt)
    await asyncio.gather(*tasks)
    handed_off = result.continued_from(engine_node)
    require(handed_off is not None, f"the stream was not continued elsewhere; it began at {result.node}")
    scene.screen.log(f"{len(result.token_ids)} tokens, exactly the answer, continued at another node")
    log = await scene.last_log(engine_node, "success")
    require("draining" in log.lower(), f"the last log has no drain:\n{log[-2_000:]}")
    scene.screen.log(f"its last log is in S3: {len(log.splitlines())} lines")
    await _gone(scene, target, NOTICE_LEAD_S + 10)
    require(target.killed, f"{engine_node} ended before EC2 ended it")
    await scene.fleet()
    scene.screen.log("a replacement has booted and serves")


async def power_off(scene: Scene) -> None:
    """`systemctl poweroff` on an instance: it drains, the group sees its end and replaces it. Raises LocalRunError."""
    target = (await scene.fleet())[0]
    began = time.monotonic()
    await scene.inside(target, "systemctl poweroff --no-block")
    await _gone(scene, target, _POWER_OFF_WITHIN_S)
    require(not target.killed, f"{target.instance_id} was killed")
    scene.screen.log(f"powered off within {time.monotonic() - began:.0f} s")
    log = await scene.last_log(target.instance_id, "success")
    require("draining" in log.lower(), f"the last log has no drain:\n{log[-2_000:]}")
    tags = await asyncio.to_thread(scene.emulator.tags, target.instance_id)
    require(tags.get(STATE_TAG) in {None, "gone"}, f"{target.instance_id} is tagged {tags}")
    await scene.fleet()


async def reboot(scene: Scene) -> None:
    """`systemctl reboot`: the same instance serves again, and installs nothing anew. Raises LocalRunError."""
    target = (await scene.fleet())[0]
    first = target.container.leader()
    await scene.inside(target, "systemctl reboot --no-block")

    async def rebooted() -> bool:
        # Not from inside: at its shutdown systemd stops nsenter, too, which then keeps the container from ending.
        return target.container.leader() != first

    took = await scene.until(f"{target.instance_id} reboots", rebooted, _REBOOT_WITHIN_S)
    served = await scene.until(f"{target.instance_id} serves again", lambda: scene.is_ready(target), READY_WITHIN_S)
    scene.screen.log(f"down within {took:.0f} s, and serving {served:.0f} s later")
    require(target.running, f"{target.instance_id} ended instead of a reboot")
    log = await scene.inside(target, "journalctl --boot --no-pager --output cat --unit synkti-boot")
    require("installing" not in log, f"packages were installed again:\n{log}")
    await scene.fleet()


async def _gone(scene: Scene, instance: BootedInstance, within_s: float) -> None:
    async def gone() -> bool:
        return instance not in scene.emulator.instances

    await scene.until(f"the group removes {instance.instance_id}", gone, within_s)
