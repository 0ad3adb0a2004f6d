"""The nodes of a cluster, from what EC2 says of its instances; and whether the fleet is as it should be.

Only EC2 is asked: a tag is all that a node has to say about itself to be seen, and it works from anywhere, whoever may
reach the nodes. What a tag says may be half a minute old.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cli.errors import Ambiguous, BadUsage, NotFound
from node_agent.contract.names import FRONT_DOOR_PORT
from node_agent.contract.states import NodeState
from node_agent.contract.tags import VERSION_TAG, decode_tags
from node_agent.contract.timestamps import format_instant

HERE = ("pending", "running")
"""EC2's states of an instance that is a node, or about to be one."""


@dataclass(frozen=True)
class Node:
    """state: what the node says of itself, None before it says anything; bought: spot or on-demand.

    address: host and port of its peer door, where the node says one; launched, deadline: unix seconds.
    """

    instance_id: str
    state: NodeState | None
    ec2_state: str
    instance_type: str
    zone: str
    bought: str
    private: str | None
    public: str | None
    address: str | None
    version: str | None
    launched: float
    deadline: float | None

    @property
    def ready(self) -> bool:
        return self.state is NodeState.READY and self.ec2_state == "running"

    @property
    def host(self) -> str | None:
        """Where clients outside reach it: what the node says, its public address, its private one."""
        told = self.address.rpartition(":")[0] if self.address else None
        return told or self.public or self.private

    @property
    def private_host(self) -> str | None:
        """Where clients in the same VPC reach it."""
        told = self.address.rpartition(":")[0] if self.address else None
        return told or self.private

    def document(self) -> dict[str, object]:
        return {
            "instance_id": self.instance_id,
            "state": self.state.value if self.state else None,
            "ec2_state": self.ec2_state,
            "instance_type": self.instance_type,
            "zone": self.zone,
            "bought": self.bought,
            "private_address": self.private,
            "public_address": self.public,
            "version": self.version,
            "launched_at": format_instant(self.launched),
            "deadline": format_instant(self.deadline) if self.deadline else None,
        }


def node_of(instance: Mapping[str, Any]) -> Node | None:
    """instance: as DescribeInstances has it. None where it is no node of any cluster."""
    tags = {tag["Key"]: tag["Value"] for tag in instance.get("Tags", [])}
    said = decode_tags(tags)
    if said is None:
        return None
    return Node(
        instance_id=instance["InstanceId"],
        state=said.state,
        ec2_state=instance.get("State", {}).get("Name", "unknown"),
        instance_type=instance.get("InstanceType", "unknown"),
        zone=instance.get("Placement", {}).get("AvailabilityZone", "unknown"),
        bought=instance.get("InstanceLifecycle", "on-demand"),
        private=instance.get("PrivateIpAddress"),
        public=instance.get("PublicIpAddress"),
        address=said.address,
        version=tags.get(VERSION_TAG),
        launched=instance["LaunchTime"].timestamp(),
        deadline=said.deadline,
    )


@dataclass(frozen=True)
class FleetStatus:
    """version: what nodes have to be of, None for any; desired: how many the group is told to keep."""

    nodes: tuple[Node, ...]
    desired: int
    version: str | None

    @property
    def ready(self) -> tuple[Node, ...]:
        """The nodes that serve, of the version that is asked for."""
        return tuple(node for node in self.nodes if node.ready and self.version in (None, node.version))

    @property
    def older(self) -> tuple[Node, ...]:
        """Nodes that still take requests, of another version than the one asked for."""
        serving = [node for node in self.nodes if node.state is not None and node.state.takes_requests]
        return tuple(node for node in serving if self.version not in (None, node.version))

    @property
    def is_whole(self) -> bool:
        """Whether as many serve as should, and no node of another version is left."""
        return len(self.ready) >= self.desired and not self.older

    @property
    def sentence(self) -> str:
        of = f" on version {self.version}" if self.version else ""
        text = f"{len(self.ready)} of {self.desired} nodes ready{of}"
        return f"{text}, {len(self.older)} on another" if self.older else text

    def document(self) -> dict[str, object]:
        return {
            "desired": self.desired,
            "ready": len(self.ready),
            "whole": self.is_whole,
            "version": self.version,
            "nodes": [node.document() for node in self.nodes],
        }


HEADERS = ("NODE", "STATE", "TYPE", "ZONE", "BOUGHT", "ADDRESS", "VERSION", "AGE")
_STYLES = {
    NodeState.READY: "green",
    NodeState.AT_RISK: "yellow",
    NodeState.DRAINING: "yellow",
    NodeState.GONE: "bright_black",
}


def row(node: Node, now: float, age: str) -> tuple[str, ...]:
    """A node's line of the table. now: unix seconds; age: how old it is, in words."""
    state = node.state.value if node.state else node.ec2_state
    if node.state is NodeState.DRAINING and node.deadline is not None:
        state += f", {max(0, round(node.deadline - now))} s left"
    address = f"{host}:{FRONT_DOOR_PORT}" if (host := node.host) else "-"
    version = node.version[:12] if node.version else "-"
    return node.instance_id, state, node.instance_type, node.zone, node.bought, address, version, age


def style(node: Node) -> str:
    return _STYLES.get(node.state, "") if node.state else ""


def pick(nodes: Sequence[Node], given: str | None) -> Node:
    """The node that is meant by an instance's id, the beginning of one, or an address. Raises CliError.

    given: None where nothing was said; then there has to be one node only.
    """
    if not nodes:
        raise NotFound("the cluster has no node now", "synkti nodes shows them; synkti scale N asks for some")
    if given is None:
        if len(nodes) > 1:
            raise Ambiguous(f"there are {len(nodes)} nodes", f"say which: {', '.join(n.instance_id for n in nodes)}")
        return nodes[0]
    if given in ("", "i", "i-"):
        raise BadUsage(f"{given!r} means no node", "give an instance's id, as synkti nodes shows it")
    addresses = [node for node in nodes if given in (node.private, node.public, node.host)]
    found = [node for node in nodes if node.instance_id == given] or addresses
    found = found or [node for node in nodes if node.instance_id.startswith(given)]
    if not found:
        raise NotFound(f"there is no node {given!r}", f"there are {', '.join(node.instance_id for node in nodes)}")
    if len(found) > 1:
        raise Ambiguous(f"{given!r} may mean {' or '.join(node.instance_id for node in found)}", "give more of it")
    return found[0]
