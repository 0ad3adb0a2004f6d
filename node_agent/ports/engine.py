"""The engine as the agent uses it: its process group, and the step counter of the plug-in."""

from __future__ import annotations

from typing import Protocol


class EngineSteps(Protocol):
    """The step counter of the engine's cores, which the plug-in writes."""

    def read(self) -> int | None:
        """Return the steps so far, the sum over all cores; None where no plug-in counts."""
        ...

    def forget(self) -> None:
        """Reset the counter: the engine has ended, or is about to."""
        ...


class EngineGroup(Protocol):
    """The engine's process group."""

    async def start(self) -> None:
        """End what an earlier agent left running, then start. Raises OSError where the command cannot be run."""
        ...

    async def wait(self) -> int:
        """Wait until the engine's first process ends; return its exit status (negative: the signal)."""
        ...

    def last_output(self) -> str:
        """Return the end of what the engine wrote; complete after `stop`."""
        ...

    def had_oom_kill(self) -> bool:
        """Return whether the kernel has ended a process for lack of memory since the start, the engine's or another."""
        ...

    def is_suspended(self) -> bool:
        """Return whether a process of the group is stopped by a signal (SIGSTOP) or a debugger."""
        ...

    def note_shared_memory(self) -> None:
        """Record the shared memory that the engine has mapped now: after a SIGKILL it cannot be read any more."""
        ...

    async def stop(self, grace_s: float) -> None:
        """Send SIGTERM to the group, SIGKILL after `grace_s` seconds; return once no process of it is left."""
        ...
