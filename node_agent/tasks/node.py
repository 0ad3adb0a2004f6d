"""This node as its doors see it: who it is, what state it is in, whom it knows, what its engine is doing.

The one mutable value that the tasks share. Only the agent's effects change `state`; the doors read it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from node_agent.contract.states import NodeState
from node_agent.core import routing
from node_agent.core.fleet import Fleet, NodeStatus, Pool
from node_agent.core.patience import MIN_SILENCE_S
from node_agent.core.routing import Route
from node_agent.ports import Identity
from node_agent.tasks.metrics import Metrics


@dataclass
class Node:
    """clock: unix seconds; peer, front: host:port of the doors as others reach them.

    min_silence_s: the least inter-token timeout of the streams here; ways: what the self-test found its engine able to.
    """

    identity: Identity
    peer: str
    front: str
    model: str
    incarnation: int
    clock: Callable[[], float]
    fleet: Fleet
    metrics: Metrics
    min_silence_s: float = MIN_SILENCE_S
    state: NodeState = NodeState.STARTING
    in_flight: int = 0
    ways: tuple[str, ...] = ()

    @property
    def instance_id(self) -> str:
        return self.identity.instance_id

    @property
    def pool(self) -> Pool:
        return Pool(self.identity.zone, self.identity.instance_type)

    def status(self) -> NodeStatus:
        return NodeStatus(
            instance_id=self.identity.instance_id,
            peer=self.peer,
            front=self.front,
            state=self.state,
            zone=self.identity.zone,
            instance_type=self.identity.instance_type,
            model=self.model if self.state.takes_requests else "",
            in_flight=self.in_flight,
            incarnation=self.incarnation,
            ways=self.ways,
        )

    def serving(self) -> list[NodeStatus]:
        """All nodes that may serve now, this one included."""
        serving = self.fleet.serving(self.clock())
        if self.state.takes_requests:
            serving.append(self.status())
        return serving

    def route(
        self, model: str | None, prefix: bytes, tried: Collection[str] = (), avoid: Pool | None = None
    ) -> Route | None:
        route = routing.choose(self.serving(), model=model, prefix=prefix, tried=tried, avoid=avoid)
        if route is not None:
            self.metrics.count_route(route.reason)
        return route

    def models(self) -> set[str]:
        """The models that some node serves now."""
        return {node.model for node in self.serving() if node.model}
