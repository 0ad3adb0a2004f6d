"""The parts of a boot run, in their order; each leaves a whole fleet."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from local.boot.part_boot import boots, lists_nodes
from local.boot.part_ends import notice, power_off, reboot
from local.boot.part_engine_unit import engine_unit
from local.boot.part_faults import full_disk, out_of_memory, watchdog
from local.boot.part_keys import keys
from local.boot.part_launches import engine_gives_up, instance_store, no_headers, no_model
from local.boot.part_vllm import real_engine
from local.boot.scene import Scene

VLLM_PART = "vllm"


@dataclass(frozen=True)
class Part:
    """One part. run: raises LocalRunError where something is not as it has to be; shows: what it has then shown."""

    run: Callable[[Scene], Coroutine[Any, Any, None]]
    shows: str
    deadline_s: float = 1_500.0
    """After so many seconds the part has failed, whatever it waits for."""


PARTS: MappingProxyType[str, Part] = MappingProxyType(
    {
        "boot": Part(boots, "user data, cloud-init, units and wheelhouse bring a fleet that serves"),
        "nodes": Part(lists_nodes, "synkti nodes lists it", 900),
        "keys": Part(keys, "requests need a key, nodes talk in TLS only, the audit log has who did what", 900),
        "engine-unit": Part(engine_unit, "an engine has no privileges, and reads nothing of its agent", 900),
        "notice": Part(notice, "a stream and its node survive an interruption notice: hand-off, drain, last log"),
        "power-off": Part(power_off, "systemctl poweroff drains, and the group replaces the instance"),
        "reboot": Part(reboot, "the same instance serves again and installs nothing"),
        "out-of-memory": Part(
            out_of_memory, "the kernel kills an agent, and its engine ends with it; then only an engine"
        ),
        "watchdog": Part(watchdog, "an agent that hangs is restarted, and its log says why"),
        "full-disk": Part(full_disk, "with no byte free a stream is served, and the agent restarts"),
        "instance-store": Part(instance_store, "the model is on the instance's own disk where there is one"),
        "engine-gives-up": Part(engine_gives_up, "an engine's configuration error ends the instance, with its words"),
        "no-model": Part(no_model, "a model that is not in the bucket ends the instance"),
        "no-headers": Part(no_headers, "an image without Python's headers ends the instance"),
        VLLM_PART: Part(
            real_engine, "a real vLLM on CPUs serves, and continues a stream of a node that was killed", 3_600
        ),
    }
)
