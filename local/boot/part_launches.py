"""Launches that go another way: an instance store, an engine that cannot start, a model that is not there."""

from __future__ import annotations

import asyncio

from local.aws import ACCOUNT, REGION
from local.boot.image import Variant
from local.boot.machine import BootedInstance
from local.boot.scene import Scene, require
from local.engines import MODEL
from node_agent.contract.models import manifest_key
from node_agent.contract.names import models_bucket_name

_LAUNCH_WITHIN_S = 60.0
_GIVE_UP_WITHIN_S = 600.0
_SHOWN_WITHIN_S = 120.0
ENGINE_WORDS = "ValueError: User-specified max_model_len (131072) is greater than the derived max_model_len (4096)"
"""As vLLM ends with settings that cannot work."""


async def instance_store(scene: Scene) -> None:
    """An instance with a disk of its own keeps the model there; the others on the root volume. Raises LocalRunError."""
    other = (await scene.fleet())[-1]
    target = await replace_one(scene, Variant(has_instance_store=True))
    await scene.fleet()
    for instance, folder in ((target, "/opt/dlami/nvme/synkti/models"), (other, "/opt/synkti/models")):
        environ = await scene.inside(instance, "cat /etc/synkti/node.env")
        require(f"SYNKTI_MODEL_DIR={folder}/{MODEL}\n" in environ, f"the model is not in {folder}:\n{environ}")
    scene.screen.log(f"{target.instance_id} has the model on its own disk; {other.instance_id} has none of its own")


async def engine_gives_up(scene: Scene) -> None:
    """An engine whose settings cannot work: the node gives up at once, with vLLM's words. Raises LocalRunError."""
    target = await replace_one(scene, Variant(engine_error=ENGINE_WORDS))
    log = await _gives_up(scene, target)
    require(ENGINE_WORDS in log, f"the last log does not have the engine's words:\n{log[-2_000:]}")
    await _reported(scene, target, ENGINE_WORDS[:40])
    await scene.fleet()


async def no_model(scene: Scene) -> None:
    """A model that is not in the bucket: the node gives up at once. Raises LocalRunError."""
    await scene.fleet()
    s3, bucket, key = scene.aws.client("s3"), models_bucket_name(scene.cluster, ACCOUNT, REGION), manifest_key(MODEL)
    manifest = s3.get_object(Bucket=bucket, Key=key)["Body"].read()
    s3.delete_object(Bucket=bucket, Key=key)
    try:
        target = await replace_one(scene, Variant())
        log = await _gives_up(scene, target)
        require("synkti-boot" in log, f"the last log does not have the failed unit:\n{log[-2_000:]}")
        await _reported(scene, target, "synkti-boot")
    finally:
        s3.put_object(Bucket=bucket, Key=key, Body=manifest)
    await scene.fleet()


async def no_headers(scene: Scene) -> None:
    """An image without Python's headers, which Triton needs: the node gives up at once. Raises LocalRunError."""
    target = await replace_one(scene, Variant(has_headers=False))
    log = await _gives_up(scene, target)
    words = "this image cannot run a node: there is no"
    require(words in log, f"the last log does not say what the image lacks:\n{log[-2_000:]}")
    await _reported(scene, target, words)
    await scene.fleet()


async def replace_one(scene: Scene, variant: Variant) -> BootedInstance:
    """End the oldest instance at once; return its replacement, which is of the variant. Raises LocalRunError."""
    oldest = (await scene.fleet())[0]
    scene.template.variants.append(variant)
    before = {instance.instance_id for instance in scene.emulator.instances}
    await asyncio.to_thread(oldest.kill)

    def new() -> list[BootedInstance]:
        return [instance for instance in scene.emulator.instances if instance.instance_id not in before]

    async def launched() -> bool:
        return bool(new())

    await scene.until("the group launches a replacement", launched, _LAUNCH_WITHIN_S)
    return new()[0]


async def _gives_up(scene: Scene, target: BootedInstance) -> str:
    """Wait until the instance has powered itself off; return its last log. Raises LocalRunError."""

    async def gone() -> bool:
        return target not in scene.emulator.instances

    took = await scene.until(f"{target.instance_id} gives up", gone, _GIVE_UP_WITHIN_S)
    require(not target.killed, f"{target.instance_id} was killed")
    scene.screen.log(f"{target.instance_id} gave up and powered itself off, {took:.0f} s after its launch")
    return await scene.last_log(target.instance_id, "gave-up")


async def _reported(scene: Scene, target: BootedInstance, words: str) -> None:
    """Wait until `synkti nodes` shows why the instance gave up. Raises LocalRunError."""

    async def shown() -> bool:
        text = " ".join((await scene.command("nodes", with_errors=True)).split())
        require(target.instance_id in text and words in text, f"it shows: {text}")
        return True

    await scene.until(f"synkti nodes shows why {target.instance_id} gave up: {words}", shown, _SHOWN_WITHIN_S)
    scene.screen.log("synkti nodes shows why")
