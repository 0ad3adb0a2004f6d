"""The live view of a fleet: each node's load, streams and tokens a second."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cli.core.node_figures import NodeFigures
from cli.core.nodes import Node, state_text
from cli.core.result import Result, Unavailable

TABLE_HEADERS = ("NODE", "STATE", "STREAMS", "TOKENS/S", "RUNNING", "WAITING", "KV", "TYPE", "ZONE")
DROPPABLE = ("TYPE", "ZONE", "KV", "WAITING", "RUNNING")
"""Columns that a narrow terminal leaves out, the least important first."""

_NONE = "-"


@dataclass(frozen=True)
class Sample:
    """The figures of all nodes at one time. at: monotonic seconds; figures: by instance id."""

    at: float
    figures: Mapping[str, Result[NodeFigures]]

    def known(self, instance_id: str) -> NodeFigures | None:
        """Return a node's figures; None where they could not be read."""
        found = self.figures.get(instance_id)
        return None if isinstance(found, Unavailable) else found


def tokens_per_s(before: Sample | None, now: Sample, instance_id: str) -> float | None:
    """Return a node's tokens a second between two samples; None where that is not known, as after a restart."""
    first, last = before.known(instance_id) if before else None, now.known(instance_id)
    if before is None or first is None or last is None or last.tokens < first.tokens or now.at <= before.at:
        return None
    return (last.tokens - first.tokens) / (now.at - before.at)


def table_row(node: Node, before: Sample | None, sample: Sample, now: float) -> tuple[str, ...]:
    """Return a node's row of the table. now: unix seconds."""
    found, rate = sample.known(node.instance_id), tokens_per_s(before, sample, node.instance_id)
    place = (node.instance_type, node.zone)
    head = (node.instance_id, state_text(node, now))
    if found is None:
        return (*head, *[_NONE] * 5, *place)
    kv_use = _NONE if found.kv_use is None else f"{found.kv_use:.0%}"
    shown_rate = _NONE if rate is None else f"{rate:.0f}"
    return (*head, str(found.streams), shown_rate, str(found.running), str(found.waiting), kv_use, *place)


def summary(nodes: Sequence[Node], desired: int, before: Sample | None, sample: Sample) -> str:
    """Return the fleet's totals as a line; of the nodes that were read."""
    found = [each for node in nodes if (each := sample.known(node.instance_id)) is not None]
    rates = [rate for node in nodes if (rate := tokens_per_s(before, sample, node.instance_id)) is not None]
    parts = [
        f"{sum(node.is_ready for node in nodes)} of {desired} nodes ready",
        f"{sum(each.streams for each in found)} streams",
        f"{sum(rates):.0f} tokens/s" if rates else "tokens/s after the next look",
        f"{sum(each.running for each in found)} requests running, {sum(each.waiting for each in found)} waiting",
    ]
    return ", ".join(parts)


def unread(nodes: Sequence[Node], sample: Sample) -> tuple[str, ...]:
    """Return which nodes could not be read, and why: one line for each reason."""
    reasons: dict[str, list[str]] = {}
    for node in nodes:
        found = sample.figures.get(node.instance_id)
        if isinstance(found, Unavailable):
            reasons.setdefault(found.reason, []).append(node.instance_id)
    return tuple(f"{', '.join(ids)}: {reason}" for reason, ids in reasons.items())


def document(nodes: Sequence[Node], before: Sample | None, sample: Sample) -> list[dict[str, object]]:
    """Return the nodes as `--json` prints them; null for what is not known."""
    every: list[dict[str, object]] = []
    for node in nodes:
        found, rate = sample.known(node.instance_id), tokens_per_s(before, sample, node.instance_id)
        every.append(
            {
                "instance_id": node.instance_id,
                "state": node.state.value if node.state else None,
                "streams": found.streams if found else None,
                "tokens_per_s": round(rate, 1) if rate is not None else None,
                "running": found.running if found else None,
                "waiting": found.waiting if found else None,
                "kv_use": found.kv_use if found else None,
            }
        )
    return every
