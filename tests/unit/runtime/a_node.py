"""A node for the tests of tasks: ready, with ready peers in its membership table."""

from __future__ import annotations

from local.lone_node import lone_node
from node_agent.contract.states import NodeState
from node_agent.core.node.status import NodeStatus, Pool
from node_agent.runtime.node.context import NodeContext


def status_of(number: int, state: NodeState = NodeState.READY, model: str = "m", zone: str = "z") -> NodeStatus:
    name = f"i-{number}"
    return NodeStatus(name, f"{name}:1", f"{name}:2", state, Pool(zone, "t"), model, 1)


def make_node(peers: int, model: str = "m") -> NodeContext:
    """Node i-0 and its peers i-1, i-2, ..., inside a running loop."""
    return lone_node(status_of(0, model=model), [status_of(number) for number in range(1, peers + 1)], lambda: 0.0)
