"""Instances whose engine is a real vLLM, on this machine's CPU, with a tiny model: served and continued answers."""

from __future__ import annotations

import asyncio

from local.boot.image import Variant
from local.boot.part_launches import replace_one
from local.boot.scene import NODES, Scene, require
from local.demo.client import StreamResult

_READY_WITHIN_S = 900.0
_TOKENS = 600
_KILL_AFTER = 60
_PROBE_TOKENS = 1


async def real_engine(scene: Scene) -> None:
    """A fleet with vLLM: a stream whose engine's node is killed equals the uninterrupted one. Raises LocalRunError."""
    for _ in range(NODES):
        target = await replace_one(scene, Variant(has_vllm=True))
        await scene.fleet(within_s=_READY_WITHIN_S)
        engine = await scene.inside(target, "pgrep --full --list-full '[v]llm.entrypoints' | head -1")
        require("vllm.entrypoints" in engine, f"the engine of {target.instance_id} is no vLLM: {engine}")
        scene.screen.log(f"{target.instance_id} serves with vLLM: {' '.join(engine.split()[2:6])} ...")
    instances = await scene.fleet()
    whole = await scene.read(instances[0], _TOKENS)
    require(bool(whole.token_ids), "vLLM's answer is empty")
    engine_node = (await scene.read(instances[0], _PROBE_TOKENS)).node
    target = scene.emulator.instance(engine_node)
    entry = next(instance for instance in instances if instance is not target)
    killed: list[asyncio.Task[None]] = []

    def kill(result: StreamResult) -> None:
        if len(result.token_ids) >= _KILL_AFTER and not killed:
            scene.screen.log(f"{engine_node}, the stream's engine node, is killed")
            scene.template.variants.append(Variant(has_vllm=True))
            killed.append(asyncio.create_task(asyncio.to_thread(target.kill)))

    result = await scene.read(entry, _TOKENS, kill)
    await asyncio.gather(*killed)
    require(bool(killed), f"the answer has only {len(result.token_ids)} tokens; the node was not killed")
    require(result.continued_from(engine_node) is not None, "the stream was not continued elsewhere")
    require(result.output == whole.output, "the continued answer is not the uninterrupted one")
    scene.screen.log(f"{len(result.token_ids)} tokens, exactly the uninterrupted answer, continued at another node")
    await scene.fleet(within_s=_READY_WITHIN_S)
