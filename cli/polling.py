"""Waiting for something that AWS does: a look now and then, and an end to it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from cli.errors import TimedOut

_T = TypeVar("_T")


@dataclass(frozen=True)
class Clock:
    """now: seconds, from any start; sleep: seconds. Tests bring their own."""

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


def wait_for(
    look: Callable[[], _T | None], what: str, *, within_s: float, every_s: float, clock: Clock, advice: str = ""
) -> _T:
    """What `look` gives as soon as it is not None. Raises TimedOut, saying `what` did not happen."""
    give_up_at = clock.now() + within_s
    while True:
        found = look()
        if found is not None:
            return found
        if clock.now() + every_s > give_up_at:
            raise TimedOut(f"{what} did not happen within {within_s:.0f} s", advice)
        clock.sleep(every_s)
