"""How a live fleet kept its promise so far: what its nodes counted, what its table has, and what neither knows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cli.core.node_figures import NodeFigures, quantile_bound, summed
from cli.core.nodes import Node
from cli.core.result import Result, Unavailable

_TAKEN = "taken"
"""The outcome of a resumption that found its stream."""


@dataclass(frozen=True)
class Continuity:
    """The account of a fleet.

    read, unread: nodes whose counters were read, and the others with the reason; tokens: that clients received;
    continued: streams that went on at another engine, by the loss's reason; resumed: streams whose clients came back to
    another node; moved: connections whose stream was to go on elsewhere; broken: streams that ended with an error, by
    its code; unkept, gaps: streams, and events, without a copy; orphaned: streams of lost nodes that no client has
    taken up, None where the table was not read; gone: nodes of the last week that have ended.
    """

    read: tuple[str, ...]
    unread: Mapping[str, str]
    tokens: int
    continued: Mapping[str, int]
    resumed: int
    moved: int
    broken: Mapping[str, int]
    unkept: Mapping[str, int]
    gaps: int
    pause_p50_s: float | None
    pause_p99_s: float | None
    orphaned: int | None
    gone: int | None

    @property
    def is_kept(self) -> bool | None:
        """True where no stream broke; None where no node was read, or clients may still come back."""
        if self.broken:
            return False
        return None if self.orphaned or not self.read else True

    def document(self) -> dict[str, object]:
        """Return it as `--json` prints it; null for what is not known."""
        return {
            "kept": self.is_kept,
            "nodes_read": list(self.read),
            "nodes_not_read": dict(self.unread),
            "nodes_gone": self.gone,
            "tokens": self.tokens,
            "continued": {"total": sum(self.continued.values()), "by_reason": dict(self.continued)},
            "resumed": self.resumed,
            "moved": self.moved,
            "broken": {"total": sum(self.broken.values()), "by_code": dict(self.broken)},
            "unreplicated": {"streams": dict(self.unkept), "events": self.gaps},
            "pause_s_at_most": {"p50": _finite(self.pause_p50_s), "p99": _finite(self.pause_p99_s)},
            "orphaned": self.orphaned,
        }


def continuity_of(
    nodes: Sequence[Node],
    figures: Mapping[str, Result[NodeFigures]],
    orphaned: Result[int],
    ended: Result[frozenset[str]],
) -> Continuity:
    """Sum what the nodes counted.

    Args:
        nodes: of the fleet, now.
        figures: of the nodes, by instance id.
        orphaned: how many streams the table has of lost nodes.
        ended: the ids of nodes that the table has and that run no more.

    Returns:
        The account.
    """
    states = [(node.instance_id, figures.get(node.instance_id, Unavailable("not looked at"))) for node in nodes]
    found = {name: each for name, each in states if isinstance(each, NodeFigures)}
    every = list(found.values())
    pauses = [each.pauses for each in every]
    return Continuity(
        read=tuple(found),
        unread={name: each.reason for name, each in states if isinstance(each, Unavailable)},
        tokens=sum(each.tokens for each in every),
        continued=summed(each.continued for each in every),
        resumed=sum(each.resumed.get(_TAKEN, 0) for each in every),
        moved=sum(each.moved for each in every),
        broken=summed(each.broken for each in every),
        unkept=summed(each.unkept for each in every),
        gaps=sum(each.gaps for each in every),
        pause_p50_s=quantile_bound(pauses, 0.5),
        pause_p99_s=quantile_bound(pauses, 0.99),
        orphaned=None if isinstance(orphaned, Unavailable) else orphaned,
        gone=None if isinstance(ended, Unavailable) else len(ended),
    )


def verdict(found: Continuity) -> str:
    """Return the conclusion as a sentence."""
    if found.broken:
        return "broken: an interruption cost some clients more than a pause"
    if not found.read:
        return "not known: no node's counters could be read"
    if found.orphaned:
        return f"not known yet: {_many(found.orphaned, 'stream')} of lost nodes may still be taken up"
    if not found.continued and not found.resumed:
        return "nothing was interrupted under a client on the nodes that were read"
    return "kept so far: every interruption that the nodes counted cost a pause, no stream broke"


def report_lines(found: Continuity) -> tuple[tuple[str, str], ...]:
    """Return the account as lines: what, and how many."""
    pause = f"half of them within {_seconds(found.pause_p50_s)}, 99 % within {_seconds(found.pause_p99_s)}"
    lines = [
        ("continued", _counted(found.continued, "continued at another engine")),
        ("pauses", pause if found.pause_p50_s is not None else "none"),
        ("resumed", f"{_many(found.resumed, 'stream')} at another node, after the client's own was lost or drained"),
        ("broken", _counted(found.broken, "ended with an error")),
        ("unreplicated", _unreplicated(found)),
        ("delivered", f"{found.tokens} tokens"),
    ]
    if found.orphaned is not None:
        lines.append(("orphaned", f"{_many(found.orphaned, 'stream')} of lost nodes, which no client has taken up"))
    return tuple(lines)


def unknown_lines(found: Continuity, orphaned: Result[int], ended: Result[frozenset[str]]) -> tuple[str, ...]:
    """Return what this account does not know, and why."""
    lines = [f"{name} was not read: {reason}" for name, reason in found.unread.items()]
    if found.gone:
        lines.append(f"{_many(found.gone, 'node')} of the last week ended, and what they had counted with them")
    lines += [each.reason for each in (orphaned, ended) if isinstance(each, Unavailable)]
    lines.append("counters begin with each agent's start; a restart begins them anew")
    lines.append("tokens lost or repeated: a live fleet has no second answer to compare with; make chaos compares")
    return tuple(lines)


def _unreplicated(found: Continuity) -> str:
    return f"{_counted(found.unkept, 'not copied')}; {_many(found.gaps, 'event')} sent before a copy"


def _counted(counts: Mapping[str, int], what: str) -> str:
    if not counts:
        return "0 streams"
    reasons = ", ".join(f"{name} {count}" for name, count in counts.items())
    return f"{_many(sum(counts.values()), 'stream')} {what} ({reasons})"


def _many(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _seconds(value: float | None) -> str:
    if value is None or math.isinf(value):
        return "more than 30 s"
    return f"{value * 1000:g} ms" if value < 1 else f"{value:g} s"


def _finite(value: float | None) -> float | None:
    return None if value is None or math.isinf(value) else value
