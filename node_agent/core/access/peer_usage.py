"""The use of one key by a node's peers: their last reports, and the sums of these."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from node_agent.core.access.usage_share import settle_s
from node_agent.core.access.window import MINUTE_S

_DEMAND_LASTS_S = 20.0
_STREAMS_LAST_S = 30.0
"""How long a report of a peer counts that sends none any more. Its requests and tokens count for a whole minute, since
when they began within their minute is not known."""

_RECOUNT_S = 0.5


class UsageReport(NamedTuple):
    """What a node reports of one key: requests and tokens of the last minute, open streams, and its demands.

    demanded: requests that clients sent lately, admitted or not; demanded_tokens: their tokens.
    """

    requests: int = 0
    tokens: int = 0
    streams: int = 0
    demanded: int = 0
    demanded_tokens: int = 0


NOTHING = UsageReport()


@dataclass(frozen=True, slots=True)
class FleetShape:
    """The nodes among which limits are shared.

    Attributes:
        own: This node's boot id.
        nodes: The boot ids of all nodes that are present, this one's included.
        rank: The place of this node among them, from 0.
        settle_s: How long a report takes until nearly all nodes have it.
    """

    own: bytes
    nodes: frozenset[bytes]
    rank: int
    settle_s: float


def fleet_shape(own: bytes, peers: Iterable[bytes], reporting: int) -> FleetShape:
    """Return the shape of a fleet. peers: boot ids; reporting: the nodes whose keys are in use, this one included."""
    nodes = frozenset((own, *peers))
    rank = sum(node < own for node in nodes)
    return FleetShape(own, nodes, rank, settle_s(len(nodes), reporting))


class PeerUsage:
    """The reports of peers about one key.

    Attributes:
        sums: Of all reports, as of the last `count`.
        place: This node's place among the nodes with a demand, from 0 to 1.
    """

    __slots__ = ("_counted_at", "_reports", "_shape", "place", "sums")

    def __init__(self) -> None:
        self._reports: dict[bytes, tuple[UsageReport, float]] = {}
        self._counted_at = float("-inf")
        self._shape: FleetShape | None = None
        self.sums = NOTHING
        self.place = 0.5

    def is_empty(self, at: float) -> bool:
        """Return whether no report counts any more."""
        return all(at - received_at > MINUTE_S for _, received_at in self._reports.values())

    def record(self, at: float, node: bytes, report: UsageReport) -> None:
        """Record a peer's report. node: its boot id."""
        self._reports[node] = (report, at)
        self._counted_at = float("-inf")

    def count(self, at: float, shape: FleetShape) -> UsageReport:
        """Sum the reports, where one is new or some time has passed; return the sums."""
        if shape is self._shape and at - self._counted_at < _RECOUNT_S:
            return self.sums
        self._counted_at, self._shape = at, shape
        requests = tokens = streams = demanded = demanded_tokens = before = 0
        demanding = 1
        for node, (report, received_at) in list(self._reports.items()):
            age_s = at - received_at
            if age_s > MINUTE_S:
                del self._reports[node]
                continue
            requests += report.requests
            tokens += report.tokens
            if node not in shape.nodes:
                continue  # its clients have lost their streams, or resume them elsewhere
            if age_s < _STREAMS_LAST_S:
                streams += report.streams
            if report.demanded and age_s < _DEMAND_LASTS_S:
                demanded += report.demanded
                demanded_tokens += report.demanded_tokens
                demanding += 1
                before += node < shape.own
        self.sums = UsageReport(requests, tokens, streams, demanded, demanded_tokens)
        self.place = (before + 0.5) / demanding
        return self.sums
