"""Counts, from the nodes' logs, where contexts of continued streams came from and which transfers failed."""

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
    """Return a line with the contexts by source, their blocks, and what was given up or not stored."""
    sources, counts = count(logs)
    parts = [f"{source}: {count}" for source, count in sources.most_common()]
    return ", ".join([*parts, *(f"{what}: {count}" for what, count in counts.items())]) or "none"


def count(logs: Path) -> tuple[Counter[str], Counter[str]]:
    """Count contexts by source; and blocks received, transfers given up, blocks rejected, contexts uploaded."""
    sources, counts = Counter[str](), Counter[str]()
    for line in _lines(logs):
        if (fetched := _FETCHED.search(line)) is not None:
            sources[next((name for name, reason in _REASONS if reason.match(fetched["reason"])), _OTHER)] += 1
            counts["blocks that came"] += int(fetched["blocks"])
            counts["given up"] += fetched["given_up"] is not None
        counts["blocks that were not taken"] += "a block that came is not kept" in line
        counts["blocks that the engine would not load"] += "KV block " in line and "is computed again" in line
        counts["left in S3"] += "its context is left in S3" in line
    return sources, counts


def _lines(logs: Path) -> Iterator[str]:
    for log in sorted(logs.glob("i-*.log")):
        yield from log.read_text(errors="replace").splitlines()
