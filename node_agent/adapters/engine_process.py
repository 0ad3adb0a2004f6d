"""vLLM as a process group: started, watched and ended as a whole.

Why a group: when only vLLM's API server is killed, its EngineCore and workers live on for minutes with the GPU's
memory, and the next engine cannot start. So the engine gets a session of its own, its group is written down, and
whatever an earlier agent left behind is ended before a new one starts. Shared memory (`/dev/shm/psm_*`) that a killed
engine mapped is removed with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path

_SHM = Path("/dev/shm")  # noqa: S108 # not a scratch file of ours: where POSIX shared memory is
_PROC = Path("/proc")
_BOOT_ID = _PROC / "sys/kernel/random/boot_id"
_POLL_S = 0.05
_KILLED_S = 10.0
"""How long a killed process may take to vanish; one stuck in the kernel cannot be waited for."""


class EngineProcess:
    """One engine at a time. argv: the command; environ: the whole environment; group_file: where its group is noted.

    The EngineGroup port. What the engine prints goes where the agent's own output goes.
    """

    def __init__(self, argv: Sequence[str], environ: Mapping[str, str], group_file: Path) -> None:
        self._argv = tuple(argv)
        self._environ = dict(environ)
        self._group_file = group_file
        self._process: asyncio.subprocess.Process | None = None
        self._shm: set[Path] = set()

    async def start(self) -> None:
        """Raises OSError where the command cannot be run."""
        await self.reap_orphans()
        self._process = await asyncio.create_subprocess_exec(
            *self._argv, env=self._environ, stdin=asyncio.subprocess.DEVNULL, start_new_session=True
        )
        # With the boot's id: after a reboot the number may belong to anybody.
        self._group_file.write_text(f"{_BOOT_ID.read_text().strip()} {self._process.pid}")

    async def wait(self) -> int:
        """Until the engine's first process ends; its exit status (negative: the signal)."""
        if self._process is None:
            raise RuntimeError("no engine was started")
        return await self._process.wait()

    def note_shared_memory(self) -> None:
        """Remember what the engine has mapped now: after a SIGKILL nobody can be asked."""
        if self._process is not None:
            for pid in _members(self._process.pid):
                self._shm |= _mapped(pid)

    async def stop(self, grace_s: float) -> None:
        """SIGTERM to the group, SIGKILL after `grace_s` seconds, until none of it is left."""
        if self._process is None:
            return
        self.note_shared_memory()
        group = self._process.pid
        await _end_group(group, grace_s)
        with contextlib.suppress(ProcessLookupError):
            await self._process.wait()
        self._process = None
        self._forget()

    async def reap_orphans(self) -> None:
        """End the group that an earlier agent started and did not end."""
        try:
            boot, number = self._group_file.read_text().split()
            group = int(number)
        except (OSError, ValueError):
            return
        if boot != _BOOT_ID.read_text().strip():
            return
        for pid in _members(group):
            self._shm |= _mapped(pid)
        await _end_group(group, 0.0)
        self._forget()

    def _forget(self) -> None:
        for path in self._shm:
            path.unlink(missing_ok=True)
        self._shm.clear()
        self._group_file.unlink(missing_ok=True)


async def _end_group(group: int, grace_s: float) -> None:
    if grace_s > 0:
        _signal(group, signal.SIGTERM)
        if await _group_ended(group, grace_s):
            return
    _signal(group, signal.SIGKILL)
    await _group_ended(group, _KILLED_S)


async def _group_ended(group: int, within_s: float) -> bool:
    clock = asyncio.get_running_loop().time
    deadline = clock() + within_s
    while _members(group):
        if clock() >= deadline:
            return False
        await asyncio.sleep(_POLL_S)
    return True


def _signal(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)


def _members(group: int) -> list[int]:
    """Living processes of the group; a zombie has nothing left that could hold memory."""
    found = []
    for entry in _PROC.iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                state, _, pgrp = (entry / "stat").read_text().rpartition(")")[2].split()[:3]
                if int(pgrp) == group and state != "Z":
                    found.append(int(entry.name))
    return found


def _mapped(pid: int) -> set[Path]:
    """Shared memory of Python's that the process has mapped."""
    with contextlib.suppress(OSError):
        lines = (_PROC / str(pid) / "maps").read_text().splitlines()
        return {Path(line.split()[-1]) for line in lines if f"{_SHM}/psm_" in line}
    return set()
