"""Bound the log: the rate of one kind of line, a line's length, and that it is one line.

It filters at the log's handlers, so that it applies to every line of the process, libraries' included. A kind is the
place that logs: the logger's name and the line's format string.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from node_agent.core.common.log_limit import LogLimit

MAX_CHARACTERS = 2_000
"""Of one line; what a client sends may be thousands, and its beginning is enough."""

_UNPRINTABLE = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0))} | {0x09: "\t", 0x0A: "\n"}


class BoundedLines(logging.Filter):
    """Filters log records. clock: monotonic seconds. Critical lines always pass, unshortened."""

    def __init__(self, clock: Callable[[], float], limit: LogLimit | None = None) -> None:
        super().__init__()
        self._clock = clock
        self._limit = limit or LogLimit()

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether to log a record; its text is bounded, and says how many like it were left out before."""
        if record.levelno >= logging.CRITICAL:
            return True
        left_out = self._limit.suppressed_before((record.name, record.msg), self._clock())
        if left_out is None:
            return False
        try:
            text = record.getMessage()
        except (TypeError, ValueError):
            return True  # the handler reports the error, and the caller continues
        if len(text) > MAX_CHARACTERS:
            text = f"{text[:MAX_CHARACTERS]}... ({len(text)} characters)"
        if left_out:
            text += f" ({left_out} more like this were left out)"
        record.msg, record.args = text.translate(_UNPRINTABLE).replace("\n", "\\n"), None
        return True


def bound_lines(clock: Callable[[], float]) -> None:
    """Bound everything that the process logs from now on."""
    bounds = BoundedLines(clock)
    for handler in logging.getLogger().handlers:
        handler.addFilter(bounds)
