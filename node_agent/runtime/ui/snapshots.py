"""Make snapshots of the fleet: at most one a second, once for all who watch.

The fleet is looked at once a second whether anybody watches or not, so that the timeline has what happened before.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson

from node_agent.core.node.status import Liveness, NodeStatus
from node_agent.core.snapshot.cost import InstancePrices, cost_to_json
from node_agent.core.snapshot.fleet import node_row, peer_rows
from node_agent.core.snapshot.fleet_changes import FleetChanges
from node_agent.core.snapshot.stream_rows import OpenStream, streams_to_json
from node_agent.runtime.client_api.client_stream import ClientStream
from node_agent.runtime.client_api.stream_registry import StreamRegistry
from node_agent.runtime.node.context import NodeContext

INTERVAL_S = 1.0
MAX_TIMELINE = 60
"""Entries of a snapshot."""

_FORMAT = 1


class Snapshots:
    """Makes the snapshots of one node.

    Args:
        node: this node and its view of the fleet.
        streams: those whose clients are connected here.
        prices: of instance types.
        cluster: the fleet's name.
        scheme: of the fleet's client APIs, http or https.
    """

    def __init__(
        self,
        node: NodeContext,
        streams: StreamRegistry,
        prices: InstancePrices,
        cluster: str,
        scheme: str,
    ) -> None:
        self._node = node
        self._streams = streams
        self._prices = prices
        self._cluster = cluster
        self._scheme = scheme
        self._changes = FleetChanges()
        self._seen_version: tuple[int, NodeStatus] | None = None
        self._made_at = -INTERVAL_S
        self._encoded = b""

    def observe(self) -> None:
        """Add to the timeline what has changed in the fleet."""
        members, own = self._node.members, self._node.status()
        seen = (members.view.version, own)
        if seen == self._seen_version:
            return
        self._seen_version = seen
        at = self._node.wall_clock()
        for changed in self._changes.look(self._nodes(), at):
            self._node.timeline.add_node_change(changed, at)

    def _nodes(self) -> Iterator[tuple[NodeStatus, Liveness]]:
        yield self._node.status(), Liveness.ALIVE
        for member in self._node.members.members.values():
            if member.is_vouched:
                yield member.status, member.liveness

    def encoded(self) -> bytes:
        """Return the newest snapshot in JSON, on one line; it is at most INTERVAL_S old."""
        now = self._node.gossip.monotonic()
        if now - self._made_at >= INTERVAL_S * 0.9:
            self.observe()
            self._made_at, self._encoded = now, orjson.dumps(self.make())
        return self._encoded

    def make(self) -> dict[str, Any]:
        """Return a snapshot as a value for JSON."""
        node, now = self._node, self._node.wall_clock()
        changed_at, own = self._changes.changed_at, node.status()
        own_since = changed_at.get(own.instance_id, now)
        nodes = [node_row(own, node.router.own_load.load, Liveness.ALIVE, own_since)]
        nodes += peer_rows(node.members.members.values(), changed_at, now)
        return {
            "format": _FORMAT,
            "at": round(now, 3),
            "cluster": self._cluster,
            "self": own.instance_id,
            "scheme": self._scheme,
            "nodes": nodes,
            "unvouched": len(node.members.view.unvouched),
            "streams": {"open": len(self._streams), "oldest": streams_to_json(map(_describe, self._streams))},
            "timeline": node.timeline.to_json(MAX_TIMELINE),
            "continuity": {**node.continuity.to_json(), **node.metrics.continuity_figures()},
            "cost": cost_to_json((row["type"] for row in nodes if row["liveness"] != "dead"), self._prices),
        }


def _describe(stream: ClientStream) -> OpenStream:
    engine = stream.engine_node
    return OpenStream(
        stream_id=stream.stream_id,
        model=stream.machine.generation.model or "",
        engine=engine.instance_id if engine is not None else "",
        tokens=stream.machine.tokens,
        began_at=stream.began_at,
        engines_used=stream.machine.engine_attempts,
        replicas=len(stream.journal.log.in_sync),
        is_interrupted=stream.is_interrupted,
    )
