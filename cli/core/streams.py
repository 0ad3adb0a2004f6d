"""The streams of a cluster as its table has them: open ones by node, and what became of single ones."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from node_agent.contract.open_streams import OpenStreams
from node_agent.contract.ownership import Ownership
from node_agent.contract.table_schema import StreamStatus
from node_agent.contract.timestamps import format_instant

TABLE_HEADERS = ("STREAM", "STATUS", "NODE", "EPOCH", "EVENTS", "AGE", "REPLICAS")
DROPPABLE = ("EPOCH", "REPLICAS", "AGE", "EVENTS", "NODE")
"""Columns that a narrow terminal leaves out, the least important first."""

_STYLES = {StreamStatus.ORPHANED: "red", StreamStatus.HANDED_OFF: "yellow", StreamStatus.CLOSED: "bright_black"}


@dataclass(frozen=True)
class Stream:
    """One stream in one epoch. since: when it got this status, unix seconds; events: as of the last write."""

    stream: str
    status: StreamStatus
    node: str
    epoch: int
    events: int
    since: float
    replicas: tuple[str, ...]
    owner: str

    def document(self) -> dict[str, object]:
        """Return it as `--json` prints it."""
        return {
            "stream": self.stream,
            "status": self.status.value,
            "node": self.node,
            "epoch": self.epoch,
            "events": self.events,
            "since": format_instant(self.since),
            "replicas": list(self.replicas),
        }


def streams_of(
    records: Iterable[OpenStreams], owned: Iterable[Ownership], statuses: Iterable[StreamStatus], now: float
) -> tuple[Stream, ...]:
    """Join the nodes' records with those of single streams: of each stream the furthest one counts.

    Args:
        records: of the nodes.
        owned: of single streams.
        statuses: those that are wanted.
        now: unix seconds; what has expired by then is left out.

    Returns:
        The streams of these statuses, the orphaned first, the oldest first among equals.
    """
    found: dict[str, Stream] = {}
    open_now = (_open(record, each) for record in records if record.expires_at > now for each in record.orphans(now))
    for stream in (*open_now, *(_owned(each) for each in owned if each.expires_at > now)):
        held = found.get(stream.stream)
        if held is None or _progress(held) < _progress(stream):
            found[stream.stream] = stream
    wanted = set(statuses)
    order = [StreamStatus.ORPHANED, StreamStatus.HANDED_OFF, StreamStatus.OPEN, StreamStatus.CLOSED]
    listed = [stream for stream in found.values() if stream.status in wanted]
    return tuple(sorted(listed, key=lambda stream: (order.index(stream.status), stream.since, stream.stream)))


def _progress(stream: Stream) -> tuple[int, str, int]:
    return stream.epoch, stream.owner, stream.status.rank


def _open(record: OpenStreams, each: Ownership) -> Stream:
    return Stream(
        each.stream, StreamStatus.OPEN, record.instance_id, each.number, each.seq, each.since, tuple(each.replicas),
        each.owner,
    )  # fmt: skip


def _owned(each: Ownership) -> Stream:
    return Stream(
        each.stream, each.status, each.instance_id, each.number, each.seq, each.changed_at, tuple(each.replicas),
        each.owner,
    )  # fmt: skip


def table_row(stream: Stream, age: str) -> tuple[str, ...]:
    """Return a stream's row of the table. age: of its status, as text."""
    replicas = ", ".join(stream.replicas) or "-"
    return stream.stream, stream.status.value, stream.node, str(stream.epoch), str(stream.events), age, replicas


def row_style(stream: Stream) -> str:
    """Return rich's style of a stream's row, by its status; empty for none."""
    return _STYLES.get(stream.status, "")
