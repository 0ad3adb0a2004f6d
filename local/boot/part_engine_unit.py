"""What an engine that a request has taken over could do: its unit's bounds, as the kernel applies them."""

from __future__ import annotations

from local.boot.machine import BootedInstance
from local.boot.scene import Scene, require
from local.errors import LocalRunError
from local.imds import ADDRESS as METADATA_ADDRESS

_CONFINED = {"CapEff": "0" * 16, "CapBnd": "0" * 16, "NoNewPrivs": "1", "Seccomp": "2"}
"""Of /proc/<pid>/status: no capability, none to gain, and a filter of system calls."""

_AS_ENGINE = "setpriv --reuid synkti-engine --regid synkti-engine --clear-groups --no-new-privs"
_FORBIDDEN = (
    "cat /etc/synkti/node.env",
    "cat /etc/synkti/boot.env",
    "ls /run/synkti",
    "ls /var/lib/synkti",
    "ls /var/log/synkti",
    "ls /var/lib/cloud",
    "cat /proc/{agent}/environ",
    "touch /opt/synkti/agent/bin/added",
    "touch /etc/systemd/system/added",
)
"""Commands that fail for the engine: the agent's settings, keys, state, logs and memory, and whatever root runs."""

_ALLOWED = ("cat /opt/synkti/current/stacks/boot/boot.sh", "ls /var/lib/synkti-shared/steps")
"""Commands that succeed: else the ones above would fail for another reason."""

METADATA_REACHED = "the engine can reach the instance's metadata"
"""What the engine's launcher logs where its unit's denial has no effect."""

NOT_DENIED = (
    "that the engine's unit keeps the engine from the instance's metadata: it denies it, but for that systemd needs "
    "cgroup v2 and BPF; the engine's launcher logged that it reaches the metadata here"
)


async def engine_unit(scene: Scene) -> None:
    """Agent and engine have no privileges, and the engine reads nothing of the agent. Raises LocalRunError."""
    for instance in await scene.fleet():
        await _check_processes(scene, instance)
        await _check_files(scene, instance)
        await _check_metadata(scene, instance)
    scene.screen.log("the engine has its own user, no privileges, and none of the agent's files")


async def _check_processes(scene: Scene, instance: BootedInstance) -> None:
    agent, engine = await scene.processes(instance)
    await scene.require_engine_unit(instance)
    for name, pid in (("agent", agent), ("engine", engine)):
        lines = (await scene.inside(instance, f"cat /proc/{pid}/status")).splitlines()
        status = {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}
        found = {key: status.get(key) for key in _CONFINED}
        require(found == _CONFINED, f"the {name} of {instance.instance_id} has {found}")


async def _check_files(scene: Scene, instance: BootedInstance) -> None:
    """Run commands as the engine's user among the engine's mounts."""
    agent, engine = await scene.processes(instance)
    as_engine = f"nsenter --target {engine} --mount {_AS_ENGINE}"
    for command in _ALLOWED:
        await scene.inside(instance, f"{as_engine} {command}")
    for command in _FORBIDDEN:
        try:
            await scene.inside(instance, f"{as_engine} {command.format(agent=agent)}")
        except LocalRunError:
            continue
        require(False, f"the engine of {instance.instance_id} may: {command}")


async def _check_metadata(scene: Scene, instance: BootedInstance) -> None:
    """Require that the unit denies the metadata to the engine; note where systemd cannot do that in a container."""
    denied = (await scene.unit(instance, "synkti-engine.service"))["IPAddressDeny"].split()
    require(f"{METADATA_ADDRESS}/32" in denied, f"the engine's unit denies {denied}")
    log = await scene.inside(instance, "journalctl --boot --no-pager --output cat --unit synkti-engine")
    if METADATA_REACHED in log and NOT_DENIED not in scene.unshown:
        scene.unshown.append(NOT_DENIED)
