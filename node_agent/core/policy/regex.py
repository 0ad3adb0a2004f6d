"""Read the outline of a regular expression: are its brackets closed, and how often does it repeat.

The dialects of the engines' compilers differ from Python's, so the pattern is not compiled here. What is read is common
to all: escapes, classes, groups and quantifiers.
"""

from __future__ import annotations

import re

_TOKEN = re.compile(
    r"""(?P<escape>\\.)
    |(?P<class>\[\^?\]?(?:[^\]\\]|\\.)*\])
    |(?P<open>\((?:\?(?:[:=!>|]|<[=!]|P?<\w+>|P=\w+|[a-zA-Z-]*:?))?)
    |(?P<close>\))
    |(?P<count>\{(?:\d+(?:,\d*)?|,\d+)\}|[*+?])
    |(?P<begin>[|^])
    |(?P<half>[\\\[])
    |(?P<char>.)""",
    re.VERBOSE | re.DOTALL | re.ASCII,
)
_MAX_GROUPS = 64
_MAX_DIGITS = 12
"""Digits of a count that are read: it is beyond every bound then."""


def pattern_defect(pattern: str) -> tuple[str | None, int]:
    """Return what is wrong with a pattern (None: nothing), and its largest product of nested counts.

    In `(a{1,3}b){2,5}` the product is 15. A quantifier without an upper bound counts as its lower one.
    """
    if "\0" in pattern:
        return "contains a NUL character", 0
    outline = _Outline()
    for token in _TOKEN.finditer(pattern):
        if (defect := outline.add(token.lastgroup or "", token[0])) is not None:
            return defect, 0
    return ("has an open (", 0) if len(outline.open_groups) > 1 else (None, outline.open_groups[0])


class _Outline:
    """The open groups of a pattern up to a place in it."""

    def __init__(self) -> None:
        self.open_groups = [1]  # the largest product in each so far, from the outermost
        self._last = 0  # the product of what a quantifier here would repeat; 0: there is nothing to repeat

    def add(self, kind: str, text: str) -> str | None:
        """Add a token; return what is wrong with it."""
        if kind == "half":
            return "ends with a backslash" if text == "\\" else "has an open ["
        if kind == "count":
            return self._repeat(text)
        if kind == "open":
            self.open_groups.append(1)
            self._last = 0
            return None if len(self.open_groups) <= _MAX_GROUPS else f"nests more than {_MAX_GROUPS} groups"
        if kind == "close":
            return self._close()
        self._last = 0 if kind == "begin" else 1
        return None

    def _close(self) -> str | None:
        if len(self.open_groups) == 1:
            return "closes a group that is not open"
        self._last = self.open_groups.pop()
        self.open_groups[-1] = max(self.open_groups[-1], self._last)
        return None

    def _repeat(self, text: str) -> str | None:
        if not self._last:
            return f"repeats nothing with {text[:20]}"
        low, _, high = text.strip("{}").partition(",")
        least = int(low[:_MAX_DIGITS]) if low.isdigit() else 0
        most = int(high[:_MAX_DIGITS]) if high else max(least, 1)
        if most < least:
            return "has a count of repetition whose end is before its beginning"
        self._last *= max(1, most)
        self.open_groups[-1] = max(self.open_groups[-1], self._last)
        return None
