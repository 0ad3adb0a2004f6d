"""Control groups for the containers, below a group of the run: systemd in a container manages its units in one.

With cgroup v2 there is one hierarchy. With v1 there is one for each controller, and systemd uses the named one
(`systemd`); a container may then not set limits of memory, so that the run limits a unit's memory from outside.

    python -m local.boot.cgroups VERSION NAME      waits for the end of its standard input, then removes a run's groups
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
_CONTROLLERS = ("memory", "pids", "cpu")
_REMOVE_WITHIN_S = 20.0


class ContainerGroups:
    """The groups of a run's containers. version: "v1" or "v2"; name: of the run's group, unique on this machine."""

    def __init__(self, version: str, name: str) -> None:
        self.version = version
        self._trees, self._memory = _folders(version, name)
        for tree in (*self._trees, self._memory):
            tree.mkdir(exist_ok=True)
        if version == "v2":
            for parent in (ROOT, self._trees[0]):
                _enable_controllers(parent)

    def enter(self, container: str) -> None:
        """Move this process into a new group of the container: in a child process, before it becomes the container."""
        for tree in self._trees:
            group = tree / container
            group.mkdir(exist_ok=True)
            (group / "cgroup.procs").write_text(str(os.getpid()))

    def memory_group(self, container: str, limit_bytes: int) -> Path:
        """Create a group with a memory limit for some processes of a container (v1 only); return its folder."""
        group = self._memory / f"{container}-limit"
        group.mkdir(exist_ok=True)
        (group / "memory.limit_in_bytes").write_text(str(limit_bytes))
        return group

    def group_of(self, pid: int) -> Path:
        """Return the folder of a process's group, its unit's (v2 only). Raises OSError once it has ended."""
        return ROOT / unified_path(Path(f"/proc/{pid}/cgroup").read_text())


def unified_path(groups: str) -> str:
    """Return the path of a process's group below the unified hierarchy. Pure. groups: as /proc/<pid>/cgroup."""
    return next(line.removeprefix("0::/") for line in groups.splitlines() if line.startswith("0::/"))


def remove_groups(version: str, name: str) -> None:
    """Remove a run's groups; those that still have a process stay."""
    trees, memory = _folders(version, name)
    for tree in {*trees, memory}:
        _remove(tree)


def _folders(version: str, name: str) -> tuple[list[Path], Path]:
    """Return the run's folders in the hierarchies that containers use, and in memory's."""
    if version == "v2":
        return [ROOT / name], ROOT / name
    trees = [ROOT / "systemd" / name]
    if (ROOT / "unified").is_dir():
        trees.append(ROOT / "unified" / name)
    return trees, ROOT / "memory" / name


def _enable_controllers(group: Path) -> None:
    for controller in _CONTROLLERS:
        with contextlib.suppress(OSError):  # not each kernel has each
            (group / "cgroup.subtree_control").write_text(f"+{controller}")


def _remove(tree: Path) -> None:
    give_up_at = time.monotonic() + _REMOVE_WITHIN_S
    while tree.is_dir():
        for folder, _, _ in os.walk(tree, topdown=False):
            with contextlib.suppress(OSError):  # its last process may be ending
                Path(folder).rmdir()
        if time.monotonic() > give_up_at:
            return
        time.sleep(0.05)


if __name__ == "__main__":
    sys.stdin.buffer.read()  # the kernel closes it with the run, however that ends
    remove_groups(sys.argv[1], sys.argv[2])
