"""Limit a server's connections: in total, from one address, and a few more for health checks.

Rules kept here:

* one address has at most `per_address` connections, so that none can have all of them;
* beyond a bound there are `reserved` slots, `RESERVED_PER_ADDRESS` for each address: a connection there may request the
  node's health and nothing else, so that a full server does not look like a dead node;
* beyond those there is no slot.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import Enum

RESERVED_PER_ADDRESS = 32


class ConnectionSlot(Enum):
    """What a connection may be used for."""

    FULL = "full"
    """For any request."""

    HEALTH_ONLY = "health-only"
    """The server is full: only for requests for the node's health."""

    HEALTH_ONLY_OF_ADDRESS = "health-only-of-address"
    """The same, because the client's address has as many connections as one address may have."""

    NONE = "none"
    """Not even for an answer."""


@dataclass
class ConnectionLimits:
    """The connections of one server.

    max_connections: at once; per_address: of one address; reserved: beyond these bounds, for health only.
    """

    max_connections: int
    per_address: int
    reserved: int
    in_use: int = 0
    _reserved_taken: int = 0
    _by_address: Counter[str] = field(default_factory=Counter)
    _reserved_by_address: Counter[str] = field(default_factory=Counter)

    def acquire(self, address: str) -> ConnectionSlot:
        """Count a new connection. `release` must be called with the returned slot, whatever it is."""
        if self.in_use < self.max_connections and self._by_address[address] < self.per_address:
            self.in_use += 1
            self._by_address[address] += 1
            return ConnectionSlot.FULL
        if self._reserved_taken >= self.reserved or self._reserved_by_address[address] >= RESERVED_PER_ADDRESS:
            return ConnectionSlot.NONE
        self._reserved_taken += 1
        self._reserved_by_address[address] += 1
        return (
            ConnectionSlot.HEALTH_ONLY if self.in_use >= self.max_connections else ConnectionSlot.HEALTH_ONLY_OF_ADDRESS
        )

    def release(self, address: str, slot: ConnectionSlot) -> None:
        """Remove a connection that has ended."""
        if slot is ConnectionSlot.FULL:
            self.in_use -= 1
            _uncount(self._by_address, address)
        elif slot is not ConnectionSlot.NONE:
            self._reserved_taken -= 1
            _uncount(self._reserved_by_address, address)


def _uncount(counts: Counter[str], address: str) -> None:
    counts[address] -= 1
    if counts[address] <= 0:
        del counts[address]  # no entry stays for an address without connections
