"""A node's checkpoint record: the streams whose clients it serves, as of its last write.

One item for each node, which the node writes at most every few seconds, whatever its number of streams and tokens. So
that a Lambda can derive what an instance that ended has left behind, each line has a stream, its epoch, its last event,
and the nodes that have its journal.

A Lambda adds the deadline at an interruption warning, and the end. Both, and the streams, belong to one incarnation of
the agent: the next one replaces the whole item, after the streams of the older one were orphaned.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from node_agent.contract.items import seconds, text, texts, whole
from node_agent.contract.ownership import (
    MAX_REPLICAS,
    Ownership,
    addresses_from_texts,
    addresses_to_texts,
    ownership_life,
)
from node_agent.contract.table_schema import CHECKPOINT_LIFE_S, SORT_KEY, TTL_ATTRIBUTE, StreamStatus, node_key

MAX_STREAMS = 2_000
"""Streams of one record, as many as a node serves by default: 200 KB of the 400 KB that an item may have."""

_STREAM_ID = re.compile(r"[0-9a-f]{24}")
_OWNER_SUFFIX = re.compile(r"(\+[0-9a-f]{1,32})?")
_NONE = "-"


def is_stream_id(name: str) -> bool:
    """Return whether it has the form of this fleet's stream ids; the table is not queried for any other."""
    return _STREAM_ID.fullmatch(name) is not None


def open_streams_key(instance_id: str) -> dict[str, str]:
    """Return the primary key of a node's record of open streams."""
    return {**node_key(instance_id), SORT_KEY: "open-streams"}


class OpenStream(NamedTuple):
    """One stream of a node. A tuple, because a node makes a thousand of them in one turn of its loop.

    number, owner: its epoch; seq: its last event; since: when this node became its owner, unix seconds; replicas: ids
    of the nodes that have its journal.
    """

    stream: str
    number: int
    owner: str
    seq: int
    since: float
    replicas: tuple[str, ...] = ()


@dataclass(frozen=True)
class OpenStreams:
    """A node's open streams.

    incarnation: of the agent that wrote it; addresses: the replicas' peer APIs by instance id; left_out: open streams
    above MAX_STREAMS; expires_at: unix seconds; deadline, ended_at: unix seconds, None where there is none.
    """

    instance_id: str
    incarnation: int
    streams: tuple[OpenStream, ...]
    expires_at: int
    addresses: Mapping[str, str] = field(default_factory=dict)
    left_out: int = 0
    deadline: float | None = None
    ended_at: float | None = None

    def to_item(self) -> dict[str, Any]:
        """Encode it as the DynamoDB resource API takes it; instants in whole milliseconds."""
        numbers = {name: number for number, name in enumerate(self.addresses)}
        item = {
            **open_streams_key(self.instance_id),
            "instance_id": self.instance_id,
            "incarnation": self.incarnation,
            "streams": [_to_line(stream, self.instance_id, numbers) for stream in self.streams],
            "replicas": addresses_to_texts(self.addresses),
            "left_out": self.left_out,
            TTL_ATTRIBUTE: self.expires_at,
        }
        instants = {"deadline_ms": self.deadline, "ended_ms": self.ended_at}
        return item | {name: round(at * 1000) for name, at in instants.items() if at is not None}

    def orphans(self, at: float) -> tuple[Ownership, ...]:
        """Return what its streams become when the node is found to have ended, at that time (unix seconds)."""
        return tuple(
            Ownership(
                stream=each.stream,
                number=each.number,
                owner=each.owner,
                status=StreamStatus.ORPHANED,
                seq=each.seq,
                since=each.since,
                changed_at=at,
                expires_at=ownership_life(at),
                replicas={name: self.addresses[name] for name in each.replicas if name in self.addresses},
            )
            for each in self.streams
        )


def open_streams_life(at: float) -> int:
    """Return when a record expires that is written at `at`; both unix seconds."""
    return int(at) + CHECKPOINT_LIFE_S


def _to_line(stream: OpenStream, instance_id: str, numbers: Mapping[str, int]) -> str:
    """Encode a stream in about 60 characters: `<stream> <number> <owner's suffix> <seq> <since> <replicas>`."""
    suffix = stream.owner.removeprefix(instance_id) or _NONE
    replicas = ",".join(str(numbers[name]) for name in stream.replicas if name in numbers) or _NONE
    return f"{stream.stream} {stream.number} {suffix} {stream.seq} {round(stream.since * 1000)} {replicas}"


def open_streams_from_item(item: Mapping[str, Any]) -> OpenStreams:
    """Return the record that an item of the table encodes. Raises ValueError where it encodes none.

    A line that cannot be read is left out: the other streams are worth more than it.
    """
    instance_id = text(item, "instance_id")
    addresses = addresses_from_texts(texts(item, "replicas"))
    names = [value.partition("=")[0] for value in texts(item, "replicas")]
    return OpenStreams(
        instance_id=instance_id,
        incarnation=whole(item, "incarnation"),
        streams=tuple(_from_lines(texts(item, "streams")[:MAX_STREAMS], instance_id, names)),
        expires_at=whole(item, TTL_ATTRIBUTE),
        addresses=addresses,
        left_out=whole(item, "left_out"),
        deadline=seconds(item, "deadline_ms") if "deadline_ms" in item else None,
        ended_at=seconds(item, "ended_ms") if "ended_ms" in item else None,
    )


def _from_lines(lines: Iterable[str], instance_id: str, names: Sequence[str]) -> Iterable[OpenStream]:
    for line in lines:
        fields = line.split(" ")
        if len(fields) != 6 or not is_stream_id(fields[0]):
            continue
        stream, number, suffix, seq, since, replicas = fields
        indexes = [] if replicas == _NONE else replicas.split(",")[:MAX_REPLICAS]
        if not all(_is_number(each) for each in (number, seq, since, *indexes)):
            continue
        if not _OWNER_SUFFIX.fullmatch(suffix.removeprefix(_NONE)):
            continue
        yield OpenStream(
            stream,
            int(number),
            instance_id + suffix.removeprefix(_NONE),
            int(seq),
            int(since) / 1000,
            tuple(names[int(each)] for each in indexes if int(each) < len(names)),
        )


def _is_number(digits: str) -> bool:
    return digits.isascii() and digits.isdigit() and len(digits) <= 15
