"""Track one engine from its start to its end, for the requests at it. Pure.

When it ends, every request that it had not begun to answer fails with the same EngineDeath, however late its own
connection breaks.
"""

from __future__ import annotations

import signal

from node_agent.core.failure.error_body import reports_dead_engine
from node_agent.core.failure.loss import EngineDeath, LossReason

_POSSIBLE_DEATHS = frozenset({LossReason.RESET, LossReason.EOF, LossReason.BROKEN, LossReason.REFUSED})
_OUTSIDE = frozenset({None, 0, *(-number for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGKILL))})
"""Exit statuses of an engine that was ended from outside: None by this agent, 0 as vLLM exits after a SIGTERM."""


class EngineLifetime:
    """One engine's lifetime. number: counts the engines that this agent started.

    suspects: keys of suspect requests that it has not answered yet; is_dead: whether it has ended, or its API server
    reports that its core has: a request that arrives now did not cause that.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.has_ended = False
        self.is_dead = False
        self.suspects: set[int] = set()
        self._at_end: frozenset[int] = frozenset()
        self._was_killed = False

    def end(self, status: int | None = None, *, had_oom_kill: bool = False) -> None:
        """Record that the process ended, or is about to be killed; only the first call counts.

        Args:
            status: the exit status (negative: the signal); None where this agent ends it.
            had_oom_kill: whether the kernel ended a process for lack of memory, which a request may have caused.
        """
        if not self.has_ended:
            self._was_killed = status in _OUTSIDE and not self.is_dead and not had_oom_kill
            self.has_ended = self.is_dead = True
            self._at_end = frozenset(self.suspects)

    def confirm_core_death(self) -> None:
        """Record that the API server reported its core's death: it exits with 0 after it, as after a SIGTERM."""
        self.is_dead = True
        self._was_killed = False

    def death(self, key: int, reason: LossReason | None = None) -> EngineDeath:
        """Return the loss of a request that it had not begun to answer.

        Args:
            key: the request's.
            reason: one of DEATHS; None: by the exit status.

        Returns:
            The same for every request but for `alone`.
        """
        if reason is None:
            reason = LossReason.ENGINE_KILLED if self._was_killed else LossReason.ENGINE_DIED
        there = self._at_end if self.has_ended else self.suspects
        return EngineDeath(reason, str(self.number), alone=not there - {key})


def may_indicate_death(reason: LossReason) -> bool:
    """Return whether an exchange that was lost for this reason may have been lost by the engine's end."""
    return reason in _POSSIBLE_DEATHS


def reports_death(data: bytes) -> bool:
    """Return whether bytes of a stream contain the error event of an API server whose engine has ended."""
    return any(reports_dead_engine(line[6:]) for line in data.split(b"\n") if line.startswith(b"data: "))
