"""Bound the cost of a JSON document before it is parsed: the parser blocks the event loop until it is done.

16 MiB of `[],` make five million objects, 450 MiB, and stop a node for seconds. So the values are counted first.
`passes_quick_check` only counts a few characters; a text full of commas may fail it, and then `fits` counts outside of
strings.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_TEXT = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)


@dataclass(frozen=True)
class DocumentBounds:
    """The bounds of one JSON document."""

    values: int = 1_000_000
    """All values, such as a prompt's ids."""

    containers: int = 100_000
    """Arrays and objects, each as expensive as ten ids."""

    strings: int = 250_000
    """String values and keys."""

    def passes_quick_check(self, raw: bytes) -> bool:
        """Return whether a document is within the bounds whatever its strings contain. Takes at most 2 ms for a MiB."""
        return (
            raw.count(b",") < self.values
            and raw.count(b'"') // 2 <= self.strings
            and raw.count(b"[") + raw.count(b"{") <= self.containers
        )

    def fits(self, raw: bytes) -> bool:
        """Return whether a document is within the bounds, without what is inside its strings. Call it in a thread.

        Only UTF-8 can be counted so: a document in UTF-16 has to pass `passes_quick_check`.
        """
        if b"\0" in raw:
            return False
        commas = containers = strings = end = 0
        for text in _TEXT.finditer(raw):
            begin = text.start()
            if begin > end:
                commas += raw.count(b",", end, begin)
                containers += raw.count(b"[", end, begin) + raw.count(b"{", end, begin)
            strings += 1
            end = text.end()
            if strings > self.strings or commas >= self.values or containers > self.containers:
                return False
        commas += raw.count(b",", end)
        containers += raw.count(b"[", end) + raw.count(b"{", end)
        return commas < self.values and containers <= self.containers and strings <= self.strings
