"""What the commands read of a node's metrics: counters since its agent's start, and what is so now."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

MAX_BYTES = 8 * 1024 * 1024
"""Of a node's answer."""

_OPEN, _TOKENS, _RUNNING, _WAITING = (
    "synkti_streams_open", "synkti_tokens_delivered_total", "synkti_engine_requests", "synkti_requests_waiting",
)  # fmt: skip
_CONTINUED, _BROKEN, _RESUMED = "synkti_continuations_total", "synkti_streams_broken_total", "synkti_resumes_total"
_MOVED = "synkti_connections_moved_total"
_UNKEPT, _GAPS = "synkti_streams_unreplicated_total", "synkti_unreplicated_events_total"
_PAUSES, _KV = "synkti_continuation_pause_seconds_bucket", "vllm:kv_cache_usage_perc"
NAMES = (_OPEN, _TOKENS, _RUNNING, _WAITING, _CONTINUED, _BROKEN, _MOVED, _RESUMED, _UNKEPT, _GAPS, _PAUSES, _KV)
"""The series that are read; of a node that is reached through Systems Manager only these are transferred."""

_LINE = re.compile(r"(?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(?P<labels>.*)\})? (?P<value>\S+)")
_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)"')


@dataclass(frozen=True)
class NodeFigures:
    """The figures of one node.

    Now: streams (clients' streams that it holds), running (requests at its engine), waiting (requests for which no node
    has room), kv_use (the largest of its engines' shares of KV blocks in use; None where vLLM gives none). Since the
    agent's start: tokens delivered, continued (by the loss's reason), broken (by the error's code), resumed (by the
    outcome), unkept (streams that were too large to replicate, by reason), gaps (events that were sent before a replica
    had them), pauses (counts by the upper bound in seconds, cumulative), moved (connections whose stream continues on
    another one).
    """

    streams: int = 0
    running: int = 0
    waiting: int = 0
    kv_use: float | None = None
    tokens: int = 0
    continued: Mapping[str, int] = field(default_factory=dict)
    broken: Mapping[str, int] = field(default_factory=dict)
    resumed: Mapping[str, int] = field(default_factory=dict)
    unkept: Mapping[str, int] = field(default_factory=dict)
    gaps: int = 0
    pauses: Mapping[float, int] = field(default_factory=dict)
    moved: int = 0


def parse_figures(text: str) -> NodeFigures:
    """Parse a node's metrics. Raises ValueError for a text that has none of a node's series."""
    series = [found for line in text.splitlines() if (found := _series(line)) is not None]
    if not any(name == _OPEN for name, _, _ in series):
        raise ValueError("it has no metrics of a node")

    def number(wanted: str) -> int:
        return round(sum(value for name, _, value in series if name == wanted))

    def by(wanted: str, label: str) -> dict[str, int]:
        found: Counter[str] = Counter()
        for name, labels, value in series:
            if name == wanted and value > 0:
                found[labels.get(label, "")] += round(value)
        return dict(found)

    shares = [value for name, _, value in series if name == _KV]
    pauses = [(_bound(labels.get("le", "")), round(value)) for name, labels, value in series if name == _PAUSES]
    return NodeFigures(
        number(_OPEN), number(_RUNNING), number(_WAITING), max(shares) if shares else None, number(_TOKENS),
        by(_CONTINUED, "reason"), by(_BROKEN, "code"), by(_RESUMED, "outcome"), by(_UNKEPT, "reason"), number(_GAPS),
        {bound: count for bound, count in pauses if bound is not None}, number(_MOVED),
    )  # fmt: skip


def summed(maps: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Return the sums of several nodes' counts, the largest first."""
    found: Counter[str] = Counter()
    for each in maps:
        found.update(each)
    return dict(found.most_common())


def quantile_bound(pauses: Iterable[Mapping[float, int]], share: float) -> float | None:
    """Return a quantile of several nodes' pauses.

    Args:
        pauses: counts by the upper bound in seconds, cumulative.
        share: of the pauses, above 0 and up to 1.

    Returns:
        The upper bound of the bucket that has it, in seconds, infinite for the last; None where there were no pauses.
    """
    found: Counter[float] = Counter()
    for each in pauses:
        found.update(each)
    total = max(found.values(), default=0)
    if total == 0:
        return None
    return next((bound for bound in sorted(found) if found[bound] >= share * total), math.inf)


def _series(line: str) -> tuple[str, dict[str, str], float] | None:
    match = _LINE.fullmatch(line) if not line.startswith("#") else None
    if match is None or match["name"] not in NAMES:
        return None
    try:
        value = float(match["value"])
    except ValueError:
        return None
    return (match["name"], dict(_LABEL.findall(match["labels"] or "")), value) if math.isfinite(value) else None


def _bound(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
