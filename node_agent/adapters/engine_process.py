"""vLLM as a process group: started, watched and ended as a whole.

Why a group: when only vLLM's API server is killed, its EngineCore and workers live on for minutes with the GPU's
memory, and the next engine cannot start. So the engine gets a session of its own, its group is written down, and
whatever an earlier agent left behind is ended before a new one starts, with what it had in shared memory
(`adapters/shared_memory`). What /proc says is bytes: the name of any process on the host may be in any encoding.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path

from node_agent.adapters.shared_memory import PROC, SharedMemoryNotes, processes

_BOOT_ID = PROC / "sys/kernel/random/boot_id"
_POLL_S = 0.05
_NOTE_FIRST_S, _NOTE_MAX_S = 1.0, 30.0
"""Shared memory is noted soon after a start and again and again: an engine that loads may be killed, too."""

_MAX_NOTE_BYTES = 256
_KILLED_S = 10.0
"""How long a killed process may take to vanish; one stuck in the kernel cannot be waited for."""

_log = logging.getLogger(__name__)


class EngineProcess:
    """One engine at a time. argv: the command; environ: the whole environment; group_file: where its group is noted.

    The EngineGroup port. What the engine prints goes where the agent's own output goes.
    """

    def __init__(self, argv: Sequence[str], environ: Mapping[str, str], group_file: Path) -> None:
        self._argv = tuple(argv)
        self._environ = dict(environ)
        self._group_file = group_file
        self._process: asyncio.subprocess.Process | None = None
        self._shared = SharedMemoryNotes(group_file.with_suffix(".shm"))
        self._noting: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Raises OSError where the command cannot be run."""
        await self.reap_orphans()
        self._shared.begin()
        self._process = await asyncio.create_subprocess_exec(
            *self._argv, env=self._environ, stdin=asyncio.subprocess.DEVNULL, start_new_session=True
        )
        try:
            # With the boot's id: after a reboot the number may belong to anybody.
            self._group_file.write_text(f"{_boot_id()} {self._process.pid}")
        except OSError as error:  # a full disk: the engine runs all the same
            _log.warning("the engine's process group cannot be noted: %s", error)
        self._noting = asyncio.create_task(self._keep_noting())

    async def wait(self) -> int:
        """Until the engine's first process ends; its exit status (negative: the signal)."""
        if self._process is None:
            raise RuntimeError("no engine was started")
        return await self._process.wait()

    def note_shared_memory(self) -> None:
        """Remember what the engine has mapped now: after a SIGKILL nobody can be asked."""
        if self._process is not None:
            self._shared.note(_members(self._process.pid))

    async def _keep_noting(self) -> None:
        """Until cancelled."""
        wait_s = _NOTE_FIRST_S
        while True:
            await asyncio.sleep(wait_s)
            self.note_shared_memory()
            wait_s = min(_NOTE_MAX_S, 2 * wait_s)

    async def stop(self, grace_s: float) -> None:
        """SIGTERM to the group, SIGKILL after `grace_s` seconds, until none of it is left."""
        if self._noting is not None:
            self._noting.cancel()
            self._noting = None
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
        """End the group that an earlier agent started and did not end, and remove what it left in shared memory."""
        group = self._noted_group()
        if group is not None:
            self._shared.note(_members(group))
            await _end_group(group, 0.0)
        self._forget()

    def _noted_group(self) -> int | None:
        """None where there is no note of this boot that can be read."""
        try:
            boot, number = self._group_file.read_bytes()[:_MAX_NOTE_BYTES].decode("ascii").split()
            group = int(number)
        except (OSError, ValueError):
            return None
        # 0 is the agent's own group, and 1 everybody's.
        return group if boot == _boot_id() and group > 1 and group != os.getpgrp() else None

    def _forget(self) -> None:
        self._shared.remove()
        with contextlib.suppress(OSError):
            self._group_file.unlink(missing_ok=True)


def _boot_id() -> str:
    """ "" where /proc does not say."""
    try:
        return _BOOT_ID.read_bytes().decode("ascii", errors="replace").strip()
    except OSError:
        return ""


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
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def _members(group: int) -> list[int]:
    """Living processes of the group; a zombie has nothing left that could hold memory."""
    found = []
    for pid in processes():
        # After the last parenthesis: the name before it may hold any bytes, parentheses and blanks, too.
        with contextlib.suppress(OSError, ValueError):
            state, _, pgrp = (PROC / str(pid) / "stat").read_bytes().rpartition(b")")[2].split()[:3]
            if int(pgrp) == group and state != b"Z":
                found.append(pid)
    return found
