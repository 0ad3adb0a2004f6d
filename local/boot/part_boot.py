"""From a launch to an answer: what systemd, cloud-init and the boot scripts did."""

from __future__ import annotations

import time

from local.boot.machine import BootedInstance
from local.boot.scene import NODES, Scene, require
from node_agent.contract.tags import STATE_TAG

_UNITS = (
    "synkti.service",
    "synkti-engine.socket",
    "synkti-engine.service",
    "synkti-ready.service",
    "synkti-logs.service",
    "synkti-load.timer",
)
_ANSWER_TOKENS = 50
_REPORTED_WITHIN_S = 60.0


async def boots(scene: Scene) -> None:
    """The fleet boots from the launch template's user data and serves a stream. Raises LocalRunError."""
    instances = await scene.fleet()
    for instance in instances:
        scene.screen.log(
            f"{instance.instance_id} ready {time.monotonic() - instance.launched_at:.0f} s after its launch"
        )
        await _check_boot(scene, instance)
    result = await scene.stream(instances[0], _ANSWER_TOKENS)
    scene.screen.log(f"a stream of {len(result.token_ids)} tokens, exactly the answer; the engine of {result.node}")


async def _check_boot(scene: Scene, instance: BootedInstance) -> None:
    received = await scene.inside(instance, "cat /var/lib/cloud/instance/user-data.txt")
    require(received == scene.template.metadata.user_data, "cloud-init's user data is not the launch template's")
    status = await scene.inside(instance, "cloud-init status --wait --long || true")
    require("status: done" in status, f"cloud-init is not done:\n{status}")
    require("DataSourceEc2" in status, f"cloud-init does not take the container for an instance of EC2:\n{status}")
    log = await scene.inside(instance, "journalctl --boot --no-pager --output cat --unit synkti-boot")
    require("come from outside" not in log, f"packages are not installed from the wheelhouse:\n{log}")
    for name in _UNITS:
        unit = await scene.unit(instance, name)
        require(
            unit["ActiveState"] == "active", f"{name} is {unit['ActiveState']}/{unit['SubState']}: {unit['Result']}"
        )
        require(unit.get("NRestarts", "0") == "0", f"{name} was restarted {unit.get('NRestarts')} times")
    await scene.require_engine_unit(instance)
    warnings = await scene.inside(instance, "systemd-analyze verify /etc/systemd/system/synkti* 2>&1 || true")
    require(not warnings.strip(), f"systemd-analyze verify:\n{warnings}")

    async def reported() -> bool:
        log = await scene.inside(instance, "journalctl --boot --no-pager --output cat --unit synkti-ready")
        return "reported to the group: CONTINUE" in log

    await scene.until("the launch hook is completed", reported, _REPORTED_WITHIN_S)
    failed = await scene.inside(instance, "systemctl --failed --no-legend --plain")
    require(not failed.strip(), f"failed units:\n{failed}")


async def lists_nodes(scene: Scene) -> None:
    """`synkti nodes` lists the fleet, by the tags that the nodes wrote. Raises LocalRunError."""
    await scene.fleet()
    document = await scene.listed_nodes()
    states = [node["state"] for node in document["nodes"]]
    require(states == ["ready"] * NODES, f"synkti nodes lists {states} ({STATE_TAG})")
    scene.screen.print_text((await scene.command("nodes")).rstrip())
