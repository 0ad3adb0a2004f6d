"""Limit how soon a peer is connected to again after a connection to it ended.

A connection that opens proves nothing: a peer may accept and close a thousand a second. So the wait depends on whether
the connection did its work, and for how long:

* one that ended before it did any, or within STEADY_S, makes the next wait longer;
* one that worked for longer only broke: the next may be opened at once, and the next wait is a first one again.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from node_agent.core.common.backoff import Backoff

STEADY_S = 5.0
RECONNECT_BACKOFF = Backoff(first_s=1.0, max_s=8.0)
_MAX_PEERS = 4_096
"""Peers in the table; beyond it, those whose wait is over are removed."""


@dataclass
class ReconnectBackoff:
    """The reconnect waits of all peers, by name. Instants: seconds of any clock that does not go back."""

    backoff: Backoff = RECONNECT_BACKOFF
    _failures: dict[str, int] = field(default_factory=dict)
    _not_before: dict[str, float] = field(default_factory=dict)

    def ended(self, name: str, now: float, *, worked_s: float, chance: float) -> None:
        """Record that a connection ended.

        worked_s: seconds since it was opened, 0 where it never did any work; chance: uniform in [0, 1).
        """
        if worked_s >= STEADY_S:
            self._failures.pop(name, None)
            self._not_before.pop(name, None)
            return
        failures = self._failures[name] = self._failures.get(name, 0) + 1
        self._not_before[name] = now + (self.backoff.wait_s(failures, chance) or 0.0)
        if len(self._failures) > _MAX_PEERS:
            self._forget(now)

    def may_connect(self, name: str, now: float) -> bool:
        """Return whether the peer's wait is over."""
        return self._not_before.get(name, now) <= now

    def _forget(self, now: float) -> None:
        for name in [name for name, at in self._not_before.items() if at <= now]:
            del self._failures[name], self._not_before[name]
