"""What became of contexts in a run, by what its nodes logged: where they came from, and where that went wrong."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

_FETCHED = re.compile(
    r": its context: (?P<reason>.+); (?P<blocks>\d+) blocks came in [0-9.]+ s(?P<given_up>, given up)?$"
)
_REASONS = (
    ("peer", re.compile(r"peer: ")),
    ("s3", re.compile(r"s3: ")),
    ("here already", re.compile(r"nothing is missing")),
    ("computed, because faster", re.compile(r"\d+ tokens are computed")),
)
_OTHER = "computed, for another reason"


def summary(logs: Path) -> str:
    """In a line: how many contexts came by which way, of how many blocks, and what was given up or not kept."""
    ways, further = count(logs)
    parts = [f"{way}: {count}" for way, count in ways.most_common()]
    return ", ".join([*parts, *(f"{what}: {count}" for what, count in further.items())]) or "none"


def count(logs: Path) -> tuple[Counter[str], Counter[str]]:
    """Contexts by the way that they came; and blocks that came, transfers given up, blocks refused, contexts left."""
    ways, further = Counter[str](), Counter[str]()
    for line in _lines(logs):
        if (brought := _FETCHED.search(line)) is not None:
            ways[next((name for name, reason in _REASONS if reason.match(brought["reason"])), _OTHER)] += 1
            further["blocks that came"] += int(brought["blocks"])
            further["given up"] += brought["given_up"] is not None
        further["blocks that were not taken"] += "a block that came is not kept" in line
        further["blocks that the engine would not load"] += "KV block " in line and "is computed again" in line
        further["left in S3"] += "its context is left in S3" in line
    return ways, further


def _lines(logs: Path) -> Iterator[str]:
    for log in sorted(logs.glob("i-*.log")):
        yield from log.read_text(errors="replace").splitlines()
