"""Bound the bytes of all request bodies in memory, from their first bytes until their requests are answered.

Rules kept here:

* a body of up to SMALL_BYTES costs nothing: the bound on connections bounds those, and they are always accepted;
* where a body does not fit, an unfinished one that received nothing for IDLE_S is aborted first, the longest idle
  before the others; then the largest unfinished one of the address that has most, if that is more than the address of
  the growing body has; else the growing body is refused itself;
* a complete body, whose request is being answered, is never aborted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

SMALL_BYTES = 64 * 1024
IDLE_S = 2.0


@dataclass(eq=False)
class HeldBody:
    """A body that is received or held."""

    address: str
    """Its client's."""

    abort: Callable[[], None]
    """Ends its upload; called by the caller of `BodyBudget.grow` for each victim."""

    size: int = 0
    last_read_at: float = 0.0
    """When it last grew, in seconds."""

    is_complete: bool = False


@dataclass
class BodyBudget:
    """The budget. max_bytes: of all bodies together; held_bytes: of those there are now."""

    max_bytes: int
    held_bytes: int = 0
    _bodies: set[HeldBody] = field(default_factory=set)

    def grow(self, body: HeldBody, size: int, now: float) -> list[HeldBody] | None:
        """Count a body that is `size` bytes large now. now: seconds.

        Returns:
            The bodies that the caller has to abort for it, which are not counted any more. None where there is no
            room: then this one is not counted any more.
        """
        body.last_read_at = now
        if size <= SMALL_BYTES:
            return []
        victims = []
        while self.held_bytes + size - body.size > self.max_bytes:
            victim = self._victim(body, now)
            if victim is None:
                self.release(body)
                return None
            self.release(victim)
            victims.append(victim)
        self.held_bytes += size - body.size
        body.size = size
        self._bodies.add(body)
        return victims

    def release(self, body: HeldBody) -> None:
        """Remove a body; nothing happens where it was not counted."""
        if body in self._bodies:
            self._bodies.remove(body)
            self.held_bytes -= body.size
            body.size = 0

    def _victim(self, growing: HeldBody, now: float) -> HeldBody | None:
        unfinished = [body for body in self._bodies if not body.is_complete and body is not growing]
        if not unfinished:
            return None
        longest_idle = min(unfinished, key=lambda body: body.last_read_at)
        if now - longest_idle.last_read_at >= IDLE_S:
            return longest_idle
        by_address: Counter[str] = Counter()
        for body in (*unfinished, growing):
            by_address[body.address] += body.size
        heaviest = max(by_address, key=lambda address: by_address[address])
        if by_address[heaviest] <= by_address[growing.address]:
            return None
        return max((body for body in unfinished if body.address == heaviest), key=lambda body: body.size)
