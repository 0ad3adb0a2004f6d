"""One budget for all bodies that doors hold at once, from their first bytes until their requests are answered.

Rules kept here:

* a body of up to SMALL_BYTES costs nothing: the bound on connections bounds those, and they pass however full it is;
* where a body does not fit, an unfinished one that has been quiet for QUIET_S goes first, the longest quiet before
  the others; then the largest unfinished one of the address that holds most, if that is more than the address of the
  body that grows holds; else the body that grows is refused itself;
* a whole body, whose request is being answered, never goes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

SMALL_BYTES = 64 * 1024
IDLE_S = 2.0


@dataclass(eq=False)
class HeldBody:
    """One body.

    address: of its client; give_up: ends its upload, called by whoever asked for room; heard_at: when it grew last, in
    seconds; is_whole: nothing of it is missing.
    """

    address: str
    abort: Callable[[], None]
    size: int = 0
    last_read_at: float = 0.0
    is_complete: bool = False


@dataclass
class BodyBudget:
    """most: bytes of all bodies together; held: of those there are now."""

    max_bytes: int
    held_bytes: int = 0
    _bodies: set[HeldBody] = field(default_factory=set)

    def grow(self, body: HeldBody, size: int, now: float) -> list[HeldBody] | None:
        """Count a body that is so large now: the bodies that have to go for it, which are not counted any more.

        None where there is no room: then this one is not counted any more. now: seconds, of the clock of heard_at.
        """
        body.last_read_at = now
        if size <= SMALL_BYTES:
            return []
        gone = []
        while self.held_bytes + size - body.size > self.max_bytes:
            victim = self._victim(body, now)
            if victim is None:
                self.release(body)
                return None
            self.release(victim)
            gone.append(victim)
        self.held_bytes += size - body.size
        body.size = size
        self._bodies.add(body)
        return gone

    def release(self, body: HeldBody) -> None:
        """The body is not held any more; nothing happens where it was not counted."""
        if body in self._bodies:
            self._bodies.remove(body)
            self.held_bytes -= body.size
            body.size = 0

    def _victim(self, growing: HeldBody, now: float) -> HeldBody | None:
        unfinished = [body for body in self._bodies if not body.is_complete and body is not growing]
        if not unfinished:
            return None
        quietest = min(unfinished, key=lambda body: body.last_read_at)
        if now - quietest.last_read_at >= IDLE_S:
            return quietest
        by_address: Counter[str] = Counter()
        for body in (*unfinished, growing):
            by_address[body.address] += body.size
        heaviest = max(by_address, key=lambda address: by_address[address])
        if by_address[heaviest] <= by_address[growing.address]:
            return None
        return max((body for body in unfinished if body.address == heaviest), key=lambda body: body.size)
