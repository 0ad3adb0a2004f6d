"""The fleet as this node sees it: who is there, who may serve, who was silent.

Two sources, two speeds. EC2 tags name the nodes there are, every half minute; what a peer says of itself on the peer
door (or a request to it that fails) tells how it is, within a second. Rules kept here:

* a newer incarnation of a node replaces what was known; an older one is ignored;
* what a peer says of itself beats its tags, which a Lambda or a person may have written late;
* a peer that was silent for `SUSPECT_AFTER_S` is chosen only where there is no other, for `DEAD_AFTER_S` never; one
  that refused a connection may not at once, until it is heard again;
* a node that is in no tag any more is forgotten once it is silent, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from node_agent.contract.states import NodeState

SUSPECT_AFTER_S = 2.5
DEAD_AFTER_S = 5.0
MAX_NODES = 2_000
"""More than a region's throttle allows to run (docs/decisions); beyond it the newest are not taken in."""

MAX_WAYS = 8
"""Of one node's status: what a newer version may advertise that this one does not know."""


@dataclass(frozen=True)
class Pool:
    """What EC2 reclaims together: nodes of one zone and type."""

    zone: str
    instance_type: str


@dataclass(frozen=True)
class NodeStatus:
    """What a node says of itself.

    peer, front: host:port of its doors; model: the one it serves, "" while none is ready; in_flight: requests at
    its engine; incarnation: its agent's start, unix milliseconds; ways: how its engine can go on with an answer, beside
    a rewind (`core/ways`).
    """

    instance_id: str
    peer: str
    front: str
    state: NodeState
    zone: str
    instance_type: str
    model: str
    in_flight: int
    incarnation: int
    ways: tuple[str, ...] = ()

    @property
    def pool(self) -> Pool:
        return Pool(self.zone, self.instance_type)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "state": self.state.value}


def status_from_json(value: Mapping[str, Any]) -> NodeStatus:
    """Raises KeyError, TypeError or ValueError where it is not one."""
    texts = {key: str(value[key]) for key in ("instance_id", "peer", "front", "zone", "instance_type", "model")}
    numbers = {key: int(value[key]) for key in ("in_flight", "incarnation")}
    ways = tuple(str(way) for way in value.get("ways", ())[:MAX_WAYS])
    return NodeStatus(**texts, **numbers, ways=ways, state=NodeState(value["state"]))  # type: ignore[arg-type] # checked by name


@dataclass(frozen=True)
class TaggedNode:
    """A running instance that carries the cluster's tags."""

    instance_id: str
    peer: str
    state: NodeState | None


@dataclass(frozen=True)
class Peer:
    """Another node. status: None until it was heard; heard_at: 0 until then; tagged: it was in the last look at EC2.

    refused: a connection to it failed since it was heard.
    """

    instance_id: str
    address: str
    status: NodeStatus | None = None
    heard_at: float = 0.0
    tagged: bool = True
    refused: bool = False

    def is_alive(self, now: float) -> bool:
        return not self.refused and not self.is_silent(now)

    def is_silent(self, now: float) -> bool:
        return now - self.heard_at > DEAD_AFTER_S


class Fleet:
    """All peers by instance id; never holds the node itself."""

    def __init__(self, own_instance_id: str) -> None:
        self._own = own_instance_id
        self.is_complete = False  # the tags were read: it may be said of a node that there is none
        self.peers: dict[str, Peer] = {}

    def tagged(self, nodes: Iterable[TaggedNode], now: float) -> None:
        """A whole look at EC2: every running node of the cluster."""
        self.is_complete = True
        found = {node.instance_id: node for node in nodes if node.instance_id != self._own}
        for known in list(self.peers.values()):
            if known.instance_id in found:
                continue
            if known.is_alive(now):
                self.peers[known.instance_id] = replace(known, tagged=False)
            else:
                del self.peers[known.instance_id]
        for node in found.values():
            known_peer = self.peers.get(node.instance_id)
            if known_peer is not None:
                self.peers[node.instance_id] = replace(known_peer, tagged=True)
            elif len(self.peers) < MAX_NODES and node.state is not NodeState.GONE:
                self.peers[node.instance_id] = Peer(node.instance_id, node.peer)

    def heard(self, status: NodeStatus, now: float) -> bool:
        """A peer spoke. Returns whether its state is news."""
        if status.instance_id == self._own:
            return False
        known = self.peers.get(status.instance_id)
        if known is None and len(self.peers) >= MAX_NODES:
            return False
        before = known.status if known else None
        if before is not None and before.incarnation > status.incarnation:
            return False
        tagged = known.tagged if known else False
        self.peers[status.instance_id] = Peer(status.instance_id, status.peer, status, now, tagged)
        return before is None or before.state is not status.state or before.incarnation != status.incarnation

    def failed(self, instance_id: str) -> None:
        """A connection to the peer was refused or broke: not to be chosen until it is heard again."""
        known = self.peers.get(instance_id)
        if known is not None:
            self.peers[instance_id] = replace(known, refused=True)

    def alive(self, now: float) -> list[NodeStatus]:
        """What the peers that were heard lately said of themselves, those that have left excepted."""
        said = [peer.status for peer in self.peers.values() if peer.status is not None and peer.is_alive(now)]
        return [status for status in said if status.state is not NodeState.GONE]

    def serving(self, now: float) -> list[NodeStatus]:
        """What the peers that may be chosen now said of themselves; suspects only where there is nobody else."""
        able = [status for status in self.alive(now) if status.state.takes_requests]
        fresh = [s for s in able if now - self.peers[s.instance_id].heard_at <= SUSPECT_AFTER_S]
        return fresh or able

    def is_silent(self, instance_id: str, now: float) -> bool:
        """Whether a peer is unknown or said nothing for DEAD_AFTER_S, whatever its connections look like."""
        peer = self.peers.get(instance_id)
        return peer is None or peer.is_silent(now)
