"""How much a JSON document costs to read, known before it is read: a parser holds the loop until it is done.

A value costs as much as 16 MiB of text: `[],` repeated makes five million objects, 450 MiB, and stops a node for
seconds. So the values are counted first. `surely_fits` looks at no more than how often a few characters occur; a text
full of commas may fail it, and then `fits` counts outside of texts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_TEXT = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)


@dataclass(frozen=True)
class DocumentBounds:
    """Of one JSON document.

    values: all of them, as a prompt's ids are; nested: arrays and objects, each as costly as ten ids; texts: those,
    and keys.
    """

    values: int = 1_000_000
    containers: int = 100_000
    strings: int = 250_000

    def passes_quick_check(self, raw: bytes) -> bool:
        """Whether a document is within the bounds, whatever is in its texts. Takes 2 ms for a MiB at most."""
        return (
            raw.count(b",") < self.values
            and raw.count(b'"') // 2 <= self.strings
            and raw.count(b"[") + raw.count(b"{") <= self.containers
        )

    def fits(self, raw: bytes) -> bool:
        """The same, but that what is inside of texts does not count. To be called in a thread.

        Only UTF-8 can be looked at so closely: a document in UTF-16 has to pass `surely_fits`.
        """
        if b"\0" in raw:
            return False
        commas = nested = texts = end = 0
        for text in _TEXT.finditer(raw):
            begin = text.start()
            if begin > end:
                commas += raw.count(b",", end, begin)
                nested += raw.count(b"[", end, begin) + raw.count(b"{", end, begin)
            texts += 1
            end = text.end()
            if texts > self.strings or commas >= self.values or nested > self.containers:
                return False
        commas += raw.count(b",", end)
        nested += raw.count(b"[", end) + raw.count(b"{", end)
        return commas < self.values and nested <= self.containers and texts <= self.strings
