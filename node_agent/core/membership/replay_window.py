"""A replay window: rejects a sender's repeated and old datagrams by their numbers.

It slides as in IPsec (RFC 4303, section 3.4.3): numbers may arrive out of order within WIDTH of the highest; older ones
count as seen.
"""

from __future__ import annotations

WIDTH = 256
"""A sender counts its datagrams to all peers together, a few a second, and bursts of dozens when much changes."""

_MASK = (1 << WIDTH) - 1


class ReplayWindow:
    """The numbers of one sender under one boot id."""

    __slots__ = ("_seen", "highest")

    def __init__(self, seen_up_to: int = 0) -> None:
        """Start with the numbers up to `seen_up_to` as seen."""
        self.highest = seen_up_to
        self._seen = _MASK

    def accept(self, number: int) -> bool:
        """Mark a number as seen; return whether it was new."""
        ahead = number - self.highest
        if ahead > 0:
            self._seen = ((self._seen << ahead) | 1) & _MASK if ahead < WIDTH else 1
            self.highest = number
            return True
        bit = 1 << -ahead
        if -ahead >= WIDTH or self._seen & bit:
            return False
        self._seen |= bit
        return True
