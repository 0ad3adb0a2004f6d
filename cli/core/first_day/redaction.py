"""Remove what identifies an account, a person or a machine from the texts of a report that strangers read.

Rules:

* known values (the account's number, the alarms' address, hosts) are replaced wherever they are, also inside of words;
* what only looks like one of them is replaced as well: a report with too little is better than one with too much;
* ids of EC2 become numbers in the order of their appearance, so that two lines about one node still agree.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TypeAlias

Fact: TypeAlias = "str | int | float | bool | list[str] | None"

_EC2_ID = re.compile(r"\b(i|vpc|subnet|sg|sgr|eni|ami|lt|vol|rtb|igw|snap|vpce)-[0-9a-f]{8,17}\b")
_KINDS = {"i": "node"}
_PATTERNS = (
    (re.compile(r"[\w.+-]+@[\w-]+\.[\w.-]+"), "<e-mail>"),
    (re.compile(r"\b(?:AKIA|ASIA|AROA|AIDA|AGPA|ANPA)[A-Z0-9]{12,}\b"), "<key>"),
    (re.compile(r"\b(?:ip|ec2)(?:-\d{1,3}){4}[\w.-]*"), "<host>"),
    (re.compile(r"\b[\w.-]+\.(?:amazonaws\.com(?:\.cn)?|internal)\b"), "<host>"),
    (re.compile(r"(?<![\d.])\d{1,3}(?:\.\d{1,3}){3}(?![\d.])"), "<address>"),
    (re.compile(r"(?<![\w:])(?:[0-9a-fA-F]{0,4}:){4,7}[0-9a-fA-F]{0,4}(?![\w:])"), "<address>"),
    # AWS's encoded authorization messages, signatures, tokens.
    (re.compile(r"[A-Za-z0-9+/_=-]{60,}"), "<encoded>"),
    (re.compile(r"(?<!\d)\d{12}(?!\d)"), "<account>"),
)


class Redactor:
    """Replaces the secret parts of texts. known: a value, and what replaces it; empty values are ignored."""

    def __init__(self, known: Mapping[str, str]) -> None:
        # The longest first: a bucket's name contains the account's number.
        self._known = sorted(((value, word) for value, word in known.items() if value), key=lambda each: -len(each[0]))
        self._numbers: dict[str, str] = {}
        self._counts: dict[str, int] = {}

    def text(self, text: str) -> str:
        """Return the text without secret parts."""
        for value, word in self._known:
            text = text.replace(value, word)
        text = _EC2_ID.sub(lambda found: self._number(found[0], found[1]), text)
        for pattern, word in _PATTERNS:
            text = pattern.sub(word, text)
        return text

    def facts(self, facts: Mapping[str, Fact]) -> dict[str, Fact]:
        """Return the facts with redacted texts; numbers stay."""
        return {key: self._fact(value) for key, value in facts.items()}

    def texts(self, texts: Sequence[str]) -> tuple[str, ...]:
        """Return each text without secret parts."""
        return tuple(map(self.text, texts))

    def _fact(self, value: Fact) -> Fact:
        if isinstance(value, str):
            return self.text(value)
        return list(self.texts(value)) if isinstance(value, list) else value

    def _number(self, found: str, prefix: str) -> str:
        kind = _KINDS.get(prefix, prefix)
        if found not in self._numbers:
            self._counts[kind] = self._counts.get(kind, 0) + 1
            self._numbers[found] = f"{kind}-{self._counts[kind]}"
        return self._numbers[found]
