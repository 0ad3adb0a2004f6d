"""Share what remains of a key's limit among nodes that admit requests at once, without a message for each request.

A node has its own counts at once and its peers' counts a little later: after the *settle time* (`settle_s`) a report
has reached nearly all nodes. Peers may use the same remainder meanwhile. So within any settle time a node takes at most
a part of what remains, and the parts of all nodes together are at most the whole:

* nodes whose demand all others have received (*settled*) share SETTLED_PART of it, in proportion to their demands;
* nodes whose demand is new share the rest in equal parts, with all nodes of the fleet, because each may be one;
* where no demand is known at all, new ones share the whole.

Parts are whole requests: what a node's part has beyond whole ones is rounded up or down, so that about as many nodes
round up as there are requests left over. New nodes do it by their place among all nodes, which is the same everywhere;
settled ones change places with every settle time, so that the last free request reaches each node that has a client.
"""

from __future__ import annotations

import math
from typing import NamedTuple

SETTLED_PART = 0.75
"""The larger it is, the smaller the remainder that an exhausted limit leaves unused, and the later a new node gets its
part: with requests at a higher rate than the limit, `settle_s / (60 * SETTLED_PART)` of it stays unused."""

REPORTS_PER_S = 50.0
"""How many usage reports a node receives, whatever the size of the fleet; those of many nodes are sent less often."""

MIN_REPORT_INTERVAL_S = 0.5
_SPREAD_S = 0.25
"""Between two hops of gossip (`GossipConfig.gossip_interval_s`)."""


def report_interval_s(reporting: int) -> float:
    """Return how often a node reports the usage of its keys. reporting: the nodes that do."""
    return max(MIN_REPORT_INTERVAL_S, reporting / REPORTS_PER_S)


def settle_s(nodes: int, reporting: int) -> float:
    """Return how long a report takes until nearly all nodes have it, in seconds, its turn included.

    nodes: of the fleet; reporting: those that report usage.
    """
    if nodes <= 1:
        return 0.0
    return report_interval_s(reporting) + _SPREAD_S * (1.0 + math.log2(nodes))


_HOLD_SETTLES = 2.0
_MIN_HOLD_S, _MAX_HOLD_S = 0.5, 4.0
"""Of a request's wait for its share: with the wait in the queue it is shorter than clients wait for a head."""

_GOLDEN = 0.618034
"""Multiples of it, without their whole part, are spread evenly."""


def hold_s(settle_s: float) -> float:
    """Return how long a request waits for its share: two settle times, within bounds."""
    return min(_MAX_HOLD_S, max(_MIN_HOLD_S, _HOLD_SETTLES * settle_s))


class Share(NamedTuple):
    """What part of a remainder is a node's.

    Attributes:
        own: Its demand.
        total: The demands of all nodes that share.
        part: Of the remainder that these nodes may take together, from 0 to 1.
        round_up: Where it rounds, from 0 (down) to 1 (up); evenly spread over the nodes.
        takes_last: Whether the last unit of a remainder is theirs, also where their part is less than one.
        by_demand: Whether it is in proportion to demands.
    """

    own: int
    total: int
    part: float
    round_up: float
    takes_last: bool
    by_demand: bool = False

    def units(self, free: int) -> int:
        """Return how many of the free units are this node's."""
        units = int(free * self.part)
        if not units and self.takes_last and free > 0:
            units = 1
        return int(units * self.own / self.total + self.round_up)

    def surely_has(self, free: int, units: int) -> bool:
        """Return whether so many units of the free ones are this node's, whatever is rounded; cheaper than `units`."""
        return free * self.part * self.own >= (units + 1) * self.total


WHOLE = Share(own=1, total=1, part=1.0, round_up=0.0, takes_last=True)
"""The share of a node that is alone."""


ONLY_DEMAND = Share(1, 1, SETTLED_PART, 0.0, takes_last=True, by_demand=True)
"""The share of a settled node while no other has a demand."""


def settled_share(own: int, total: int, place: float, turn: int) -> Share:
    """Return the share of a node whose demand the others have received.

    own, total: demands; place: its place among the nodes with a demand, from 0 to 1; turn: the settle time's number.
    """
    round_up = 0.0 if own >= total else (place + turn * _GOLDEN) % 1.0
    return Share(own, total, SETTLED_PART, round_up, takes_last=True, by_demand=True)


def new_share(rank: int, nodes: int, *, others_demand: bool) -> Share:
    """Return the share of a node whose demand is new. rank: its place among the nodes, from 0."""
    part = 1.0 - SETTLED_PART if others_demand else 1.0
    return Share(1, nodes, part, (nodes - 1 - rank) / nodes, takes_last=not others_demand)


def may_take(room: int, recent: int, cost: int, share: Share) -> bool:
    """Return whether a node may take `cost` now.

    Args:
        room: What remains of the limit, by all counts that the node has.
        recent: What it took itself within the last settle time.
        cost: At least 1.
        share: Its share of the remainder.
    """
    if room < cost:
        return False
    return -(-recent // cost) < share.units((room + recent) // cost)
