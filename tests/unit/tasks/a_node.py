"""A node for the tests of tasks: ready, with peers that it knows and that are ready, too."""

from __future__ import annotations

import asyncio

from node_agent.adapters.http import HttpClient
from node_agent.contract.states import NodeState
from node_agent.core.addresses import Address
from node_agent.core.membership import Membership, Tagged
from node_agent.core.nodes import NodeStatus, Pool
from node_agent.ports import Identity
from node_agent.tasks.gossip import Gossip
from node_agent.tasks.metrics import Metrics
from node_agent.tasks.node import Node


class NoDatagrams:
    """Nobody hears."""

    def send(self, to: Address, data: bytes) -> None:
        """It is lost."""


def status_of(number: int, state: NodeState = NodeState.READY, model: str = "m", zone: str = "z") -> NodeStatus:
    name = f"i-{number}"
    return NodeStatus(name, f"{name}:1", f"{name}:2", state, Pool(zone, "t"), model, 1)


def life_of(number: int) -> bytes:
    return (number + 1).to_bytes(6, "big")


def meet(node: Node, status: NodeStatus) -> None:
    """Have a node know another one."""
    node.members.meet(life_of(int(status.instance_id.removeprefix("i-"))), status)


def make_node(peers: int, model: str = "m") -> Node:
    """Node i-0 and its peers i-1, i-2, ..., inside a running loop."""
    clock = asyncio.get_running_loop().time
    machine = Membership(status_of(0, NodeState.STARTING, model), life_of(0), b"key", clock(), lambda: 0.5)
    metrics = Metrics()
    gossip = Gossip(machine, NoDatagrams(), HttpClient(), clock, metrics)
    node = Node(Identity("i-0", "z", "r", "t", "10.0.0.1"), model, lambda: 0.0, gossip, metrics)
    node.become(NodeState.READY)
    gossip.handle(Tagged(clock(), ()))
    for number in range(1, peers + 1):
        meet(node, status_of(number))
    return node
