"""The parts of a boot run, in their order; each leaves a whole fleet."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from types import MappingProxyType
from typing import Any

from local.boot.part_boot import boots, lists_nodes
from local.boot.part_ends import notice, power_off, reboot
from local.boot.part_faults import full_disk, out_of_memory, watchdog
from local.boot.part_launches import engine_gives_up, instance_store, no_model
from local.boot.scene import Scene

PARTS: MappingProxyType[str, Callable[[Scene], Coroutine[Any, Any, None]]] = MappingProxyType(
    {
        "boot": boots,
        "nodes": lists_nodes,
        "notice": notice,
        "power-off": power_off,
        "reboot": reboot,
        "out-of-memory": out_of_memory,
        "watchdog": watchdog,
        "full-disk": full_disk,
        "instance-store": instance_store,
        "engine-gives-up": engine_gives_up,
        "no-model": no_model,
    }
)
