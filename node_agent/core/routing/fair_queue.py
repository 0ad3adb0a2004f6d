"""Order waiting requests by token-weighted deficit round robin over the keys of their callers.

    keys with waiting requests, in a circle:   k1 [3, 1]   k2 [9]   k3 [2, 2, 2]
    a key whose turn comes may spend QUANTUM more tokens; while what it may spend covers its first request, it is next

Rules kept here (Shreedhar and Varghese, SIGCOMM 1995):

* within a key, requests are served in their order; between keys, tokens are shared equally while both wait;
* what a key may spend ends when its last waiting request is served: nothing is saved up while none waits. If that one
  left because it had waited too long, it stays for the key's next request;
* an answer that was longer or shorter than estimated is settled by its key's next turns (`charge`), within MAX_BALANCE,
  so that no key gains by its estimates, and none is shut out for long;
* a request is never passed over for ever: every round of the circle lets its key spend QUANTUM more.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

QUANTUM = 64
"""Tokens that a key may spend more at each of its turns. Small, because requests wait for seconds only: a key whose few
requests are served in one turn would lose the rest of that turn, and one with many would not. Rounds in which no key
can spend enough cost nothing (`_skip_rounds`)."""

MAX_WEIGHT = 1_048_576
"""Of one request: a client may write any number as its max_tokens."""

MAX_BALANCE = 16_384
"""Tokens that a key owes, or may spend at once, at most, beyond its requests' own weights."""

_MAX_BALANCES = 1_024


@dataclass(slots=True)
class _Line:
    """The waiting requests of one key: numbers and weights, in their order. deficit: tokens that it may spend now."""

    weights: OrderedDict[int, int] = field(default_factory=OrderedDict)
    deficit: int = 0

    @property
    def first(self) -> int:
        return next(iter(self.weights))

    @property
    def missing(self) -> int:
        """Tokens that its first request costs beyond what it may spend."""
        return self.weights[self.first] - self.deficit


class FairQueue:
    """Waiting requests, by numbers that the owner gives them. quantum: tokens."""

    def __init__(self, quantum: int = QUANTUM) -> None:
        self._quantum = quantum
        self._lines: OrderedDict[str, _Line] = OrderedDict()
        self._keys: dict[int, str] = {}
        self._balances: OrderedDict[str, int] = OrderedDict()  # of keys without waiting requests; negative: owed

    def __len__(self) -> int:
        return len(self._keys)

    def __contains__(self, number: int) -> bool:
        return number in self._keys

    @property
    def keys(self) -> int:
        """How many keys have waiting requests."""
        return len(self._lines)

    def waiting(self, key: str) -> int:
        """Return how many requests of a key wait."""
        line = self._lines.get(key)
        return len(line.weights) if line is not None else 0

    def push(self, number: int, key: str, weight: int) -> None:
        """Add a request at the end of its key's. weight: its estimated tokens."""
        line = self._lines.get(key)
        if line is None:
            begins = 0 if self._lines else self._quantum  # its turn, where no other key waits
            line = self._lines[key] = _Line(deficit=begins + self._balances.pop(key, 0))
        line.weights[number] = min(max(1, weight), MAX_WEIGHT)
        self._keys[number] = key

    @property
    def next(self) -> int | None:
        """The request to serve next; the same one until it is served or removed. None where none waits."""
        if not self._lines:
            return None
        self._skip_rounds()
        while True:
            key, line = next(iter(self._lines.items()))
            if line.missing <= 0:
                return line.first
            self._lines.move_to_end(key)
            next(iter(self._lines.values())).deficit += self._quantum

    def _skip_rounds(self) -> None:
        """Go through the rounds at once in which no key could spend enough."""
        rounds = min(-(-line.missing // self._quantum) for line in self._lines.values()) - 1
        if rounds > 0:
            for line in self._lines.values():
                line.deficit += rounds * self._quantum

    def serve(self, number: int) -> None:
        """Remove a request that is served, and let its key pay for it."""
        key = self._keys.get(number)
        if key is not None:
            line = self._lines[key]
            line.deficit -= line.weights[number]
            self.remove(number)

    def remove(self, number: int, *, waited_in_vain: bool = False) -> None:
        """Remove a request that is not served; an unknown one is ignored.

        waited_in_vain: keeps what its key may spend for the key's next request.
        """
        key = self._keys.pop(number, None)
        if key is None:
            return
        line = self._lines[key]
        del line.weights[number]
        if not line.weights:
            del self._lines[key]
            if line.deficit < 0 or waited_in_vain:
                self._add_balance(key, line.deficit)

    def charge(self, key: str, tokens: int) -> None:
        """Let a key pay for what its served request used beyond its weight, or return what it used less (negative).

        Without effect where no request waits.
        """
        if not self._lines:
            return
        line = self._lines.get(key)
        if line is not None:
            line.deficit = max(line.deficit - tokens, -MAX_BALANCE)
        else:
            self._add_balance(key, -tokens)

    def _add_balance(self, key: str, tokens: int) -> None:
        balance = self._balances.pop(key, 0) + tokens
        if balance:
            self._balances[key] = min(max(balance, -MAX_BALANCE), MAX_BALANCE)
        if len(self._balances) > _MAX_BALANCES:
            self._balances.popitem(last=False)

    def newest_of_longest(self) -> int | None:
        """Return the newest request of the key that has most of them; None where none waits."""
        if not self._lines:
            return None
        line = max(self._lines.values(), key=lambda line: len(line.weights))
        return next(reversed(line.weights))
