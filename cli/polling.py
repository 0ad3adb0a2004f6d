"""Poll until a condition holds, with a timeout."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from cli.errors import TimedOut

_T = TypeVar("_T")


@dataclass(frozen=True)
class Clock:
    """now: seconds from any start; sleep: waits seconds. Tests replace both."""

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


def wait_for(
    poll: Callable[[], _T | None], what: str, *, within_s: float, every_s: float, clock: Clock, advice: str = ""
) -> _T:
    """Call `poll` until its result is not None, and return that. Raises TimedOut. what: for the error's message."""
    give_up_at = clock.now() + within_s
    while True:
        found = poll()
        if found is not None:
            return found
        if clock.now() + every_s > give_up_at:
            raise TimedOut(f"{what} did not happen within {within_s:.0f} s", advice)
        clock.sleep(every_s)
