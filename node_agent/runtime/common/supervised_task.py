"""Supervises the agent's loops: an unexpected exception is made visible, and ends neither the loop nor the agent.

What comes from outside is parsed at its border and never gets here; what does get here is a bug. It must be seen: the
metric `synkti_unexpected_errors_total{where}`, and a log line with the traceback. But a node that serves a hundred
clients must not end for a bug in, say, its reading of tags, and least of all when the same value reaches the same bug
on every node at once (docs/decisions/0025). The reactor does not run like this: it decides when the node ends, and a
bug in it ends the process.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from node_agent.core.common.backoff import Backoff
from node_agent.core.common.log_limit import LogLimit
from node_agent.runtime.common.metrics import Metrics

CALM_S = 60.0
"""A loop that ran that long restarts its backoff."""

_BACKOFF = Backoff(first_s=0.25, max_s=15.0)
_log = logging.getLogger(__name__)


class Unexpected:
    """Counts and logs unexpected exceptions. clock: monotonic seconds."""

    def __init__(self, metrics: Metrics, clock: Callable[[], float]) -> None:
        self.metrics = metrics
        self._clock = clock
        self._limit = LogLimit(burst=5.0, per_s=1 / 60)  # tracebacks are long

    def report(self, where: str, error: BaseException | None, what: str = "") -> None:
        """Count and log an exception. where: one of few words, a label of the metric; what: details for the log."""
        self.metrics.unexpected.labels(where).inc()
        left_out = self._limit.suppressed_before((where, type(error)), self._clock())
        if left_out is None:
            return
        repeated = f" ({left_out} more since the last line)" if left_out else ""
        _log.error("a bug in %s%s%s: %r", where, f", {what}" if what else "", repeated, error, exc_info=error)

    async def attempt(self, where: str, step: Awaitable[object]) -> None:
        """Wait for a step of something that has to go through to its end; an exception of it is reported."""
        try:
            await step
        except Exception as error:  # any bug of any step: what comes after it matters as much
            self.report(where, error)

    def handle_loop_exception(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Handle what escaped from a callback or an unawaited task, as the event loop's exception handler."""
        self.report("callback", context.get("exception"), str(context.get("message", "")))


async def keep_running(
    where: str, run: Callable[[], Awaitable[None]], unexpected: Unexpected, chance: Callable[[], float]
) -> None:
    """Run a loop until it returns or is cancelled; restart it after a backoff where it raised.

    The loop's state is its object's, so it continues where it was. chance: uniform in [0, 1), for backoff.
    """
    clock = asyncio.get_running_loop().time
    failures = 0
    while True:
        began = clock()
        try:
            await run()
        except Exception as error:  # any bug of any loop: see the module
            unexpected.report(where, error)
        else:
            return
        failures = 1 if clock() - began >= CALM_S else failures + 1
        await asyncio.sleep(_BACKOFF.wait_s(failures, chance()) or 0.0)
