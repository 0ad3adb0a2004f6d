"""Lets the kernel run out of memory for one process of a container: a real kill by the kernel, of exactly that one.

A child of this process is moved into the group that bounds the victim's memory, and allocates more than the bound.
The kernel then kills the victim, which is marked as the first to go, and after it the child.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from local.boot.cgroups import ContainerGroups
from local.boot.container import Container
from local.errors import LocalRunError

_HOG = "import sys; sys.stdin.read(1); x = bytearray({bytes}); sys.stdin.read()"
_HOG_BYTES = 512 * 2**20
_ROOM_BYTES = 64 * 2**20
_FIRST_TO_GO = "1000"
_WITHIN_S = 20.0


def run_out_of_memory(container: Container, unit: str, inner_pid: str) -> None:
    """Let the kernel kill a process of the unit. inner_pid: its number inside. Raises LocalRunError if it does not."""
    victim = container.outer_pid(inner_pid)
    Path(f"/proc/{victim}/oom_score_adj").write_text(_FIRST_TO_GO)
    hog = subprocess.Popen([sys.executable, "-c", _HOG.format(bytes=_HOG_BYTES)], stdin=subprocess.PIPE)
    try:
        with _bounded_group(container, unit, victim) as group:
            (group / "cgroup.procs").write_text(str(hog.pid))
            if hog.stdin is not None:
                hog.stdin.write(b"x")
                hog.stdin.flush()
            _wait_for_end(victim)
    finally:
        hog.kill()
        hog.wait()


@contextlib.contextmanager
def _bounded_group(container: Container, unit: str, victim: int) -> Iterator[Path]:
    """Bound the memory of the victim's group; yield its folder."""
    groups: ContainerGroups = container.groups
    if groups.version == "v1":  # the container's systemd cannot bound memory there: a group of our own
        group = groups.memory_group(container.name, _ROOM_BYTES)
        (group / "cgroup.procs").write_text(str(victim))
        yield group
        return
    group = groups.unit_group(container.name, unit)
    limit = group / "memory.max"
    limit.write_text(str(int((group / "memory.current").read_text()) + _ROOM_BYTES))
    try:
        yield group
    finally:
        with contextlib.suppress(OSError):  # the group may be gone with the unit
            limit.write_text("max")


def _wait_for_end(pid: int) -> None:
    give_up_at = time.monotonic() + _WITHIN_S
    while Path(f"/proc/{pid}").exists():
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return
        if time.monotonic() > give_up_at:
            raise LocalRunError(f"the kernel did not kill process {pid}")
        time.sleep(0.05)
