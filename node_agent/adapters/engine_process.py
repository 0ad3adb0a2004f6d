"""Run vLLM as a process group: started, watched and ended as a whole.

Why a group: when only vLLM's API server is killed, its EngineCore and workers live on for minutes with the GPU's
memory, and the next engine cannot start. So the engine gets a session of its own, and its group is recorded in a file.
Before a start, processes and shared memory of an earlier agent's engine are removed (`adapters/shared_memory`).
Contents of /proc are bytes: the name of any process on the host may be in any encoding.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from node_agent.adapters.engine_output import EngineOutput, OutputEnd
from node_agent.adapters.shared_memory import PROC, SharedMemoryNotes, processes

_BOOT_ID = PROC / "sys/kernel/random/boot_id"
_VM_COUNTERS = PROC / "vmstat"
_SUSPENDED = frozenset({b"T", b"t"})
_POLL_S = 0.05
_NOTE_FIRST_S, _NOTE_MAX_S = 1.0, 30.0
"""Shared memory is recorded soon after a start and repeatedly: an engine that loads may be killed, too."""

_MAX_NOTE_BYTES = 256
_OUTPUT_S = 1.0
"""How long the last bytes of an ended engine may take; a process that left the group may keep the pipe open."""

KILLED_S = 10.0
"""How long a killed process may take to end; one stuck in the kernel cannot be awaited."""

_log = logging.getLogger(__name__)


class EngineProcess:
    """The EngineGroup port: one engine at a time. The engine's output goes to the agent's standard output.

    argv: the command.
    environ: the whole environment.
    group_file: where its process group is recorded.
    make_output: called at each start, for what its output goes to.
    """

    def __init__(
        self,
        argv: Sequence[str],
        environ: Mapping[str, str],
        group_file: Path,
        make_output: Callable[[], OutputEnd] = EngineOutput,
    ) -> None:
        self._argv = tuple(argv)
        self._environ = dict(environ)
        self._group_file = group_file
        self._process: asyncio.subprocess.Process | None = None
        self._make_output = make_output
        self._output: OutputEnd | None = None
        self._shared = SharedMemoryNotes(group_file.with_suffix(".shm"))
        self._noting: asyncio.Task[None] | None = None
        self._oom_kills = 0  # of this host, at the start

    async def start(self) -> None:
        """Start an engine. Raises OSError where the command cannot be run."""
        await self.reap_orphans()
        self._shared.begin()
        self._oom_kills = oom_kills()
        output = self._make_output()
        try:
            self._process = await asyncio.create_subprocess_exec(
                *self._argv,
                env=self._environ,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output.descriptor,
                stderr=output.descriptor,
                start_new_session=True,
            )
        except OSError:
            output.discard()
            raise
        output.begin()
        self._output = output
        try:
            # With the boot's id: after a reboot the number may belong to any process.
            self._group_file.write_text(f"{_boot_id()} {self._process.pid}")
        except OSError as error:  # a full disk: the engine runs all the same
            _log.warning("the engine's process group cannot be noted: %s", error)
        self._noting = asyncio.create_task(self._keep_noting())

    @property
    def group(self) -> int:
        """The engine's process group, which is the number of its first process; 0 before a start."""
        return self._process.pid if self._process is not None else 0

    async def wait(self) -> int:
        """Wait until the engine's first process ends; return its exit status (negative: the signal)."""
        if self._process is None:
            raise RuntimeError("no engine was started")
        return await self._process.wait()

    def last_output(self) -> str:
        """Return the end of the engine's output, of its errors as well; complete once all of the group has ended."""
        return self._output.end(_OUTPUT_S) if self._output is not None else ""

    def had_oom_kill(self) -> bool:
        """Return whether the kernel has ended a process for lack of memory since the start, the engine's or another."""
        return oom_kills() > self._oom_kills

    def is_suspended(self) -> bool:
        """Return whether a process of the group is stopped by a signal (SIGSTOP) or a debugger."""
        return self._process is not None and is_group_suspended(self._process.pid)

    def note_shared_memory(self) -> None:
        """Record what the engine has mapped now: after a SIGKILL its maps are gone."""
        if self._process is not None:
            self._shared.note(_members(self._process.pid))

    async def _keep_noting(self) -> None:
        """Record the engine's shared memory repeatedly, until cancelled."""
        wait_s = _NOTE_FIRST_S
        while True:
            await asyncio.sleep(wait_s)
            self.note_shared_memory()
            wait_s = min(_NOTE_MAX_S, 2 * wait_s)

    async def stop(self, grace_s: float) -> None:
        """Send SIGTERM to the group, SIGKILL after `grace_s` seconds, and wait until all of it has ended."""
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
        """End the group that an earlier agent started and did not end, and remove its shared memory."""
        group = self._noted_group()
        if group is not None:
            self._shared.note(_members(group))
            await _end_group(group, 0.0)
        self._forget()

    def _noted_group(self) -> int | None:
        """Return the recorded group; None without a readable record of this boot."""
        try:
            boot, number = self._group_file.read_bytes()[:_MAX_NOTE_BYTES].decode("ascii").split()
            group = int(number)
        except (OSError, ValueError):
            return None
        # 0 is the agent's own group, and 1 is init's.
        return group if boot == _boot_id() and group > 1 and group != os.getpgrp() else None

    def _forget(self) -> None:
        self._shared.remove()
        with contextlib.suppress(OSError):
            self._group_file.unlink(missing_ok=True)


def _boot_id() -> str:
    """Return the boot's id, empty where /proc has none."""
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
    await _group_ended(group, KILLED_S)


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


def oom_kills() -> int:
    """Return how many processes the kernel has ended for lack of memory since the boot; 0 where it does not count."""
    try:
        fields = _VM_COUNTERS.read_bytes().split()
        return int(fields[fields.index(b"oom_kill") + 1])
    except (OSError, ValueError, IndexError):
        return 0


def is_group_suspended(group: int) -> bool:
    """Return whether a process of the group is stopped by a signal (SIGSTOP) or a debugger."""
    return not _SUSPENDED.isdisjoint(_members(group).values())


def _members(group: int) -> dict[int, bytes]:
    """Return the living processes of the group, each with its state; a zombie holds no memory."""
    found = {}
    for pid in processes():
        # After the last parenthesis: the name before it may hold any bytes, parentheses and blanks, too.
        with contextlib.suppress(OSError, ValueError):
            state, _, pgrp = (PROC / str(pid) / "stat").read_bytes().rpartition(b")")[2].split()[:3]
            if int(pgrp) == group and state != b"Z":
                found[pid] = state
    return found
