"""The nodes of a cluster, from the tags of its EC2 instances, and the state of the fleet.

Only EC2 is queried, so this works also where the nodes cannot be reached. A tag may be half a minute old.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cli.errors import Ambiguous, BadUsage, NotFound
from node_agent.contract.names import FRONT_DOOR_PORT
from node_agent.contract.states import NodeState
from node_agent.contract.tags import SHUT_OUT_TAG, VERSION_TAG, decode_tags
from node_agent.contract.timestamps import format_instant

NODE_EC2_STATES = ("pending", "running")
"""States in EC2 of an instance that is a node, or will be one."""


@dataclass(frozen=True)
class Node:
    """A node as EC2 describes it."""

    instance_id: str
    state: NodeState | None
    """From the node's own tag; None before it has one."""

    ec2_state: str
    instance_type: str
    zone: str
    purchase_option: str
    """spot or on-demand."""

    private_address: str | None
    public_address: str | None
    address: str | None
    """Host and port of its peer API, where its tag has one."""

    version: str | None
    launched_at: float
    """Unix seconds."""

    deadline: float | None
    """Unix seconds."""

    cluster_keys: tuple[str, ...] = ()
    """The ids of the cluster keys that it accepts, the one first with which it signs; () where it has no such tag."""

    is_shut_out: bool = False

    @property
    def is_ready(self) -> bool:
        """True where it accepts requests, also while at risk, and its instance runs: a killed node keeps its tags."""
        takes = self.state is not None and self.state.takes_requests
        return takes and self.ec2_state == "running" and not self.is_shut_out

    @property
    def host(self) -> str | None:
        """The host for clients outside: the advertised one, its public address, or its private one."""
        host = self.address.rpartition(":")[0] if self.address else None
        return host or self.public_address or self.private_address

    @property
    def private_host(self) -> str | None:
        """The host for clients in the same VPC."""
        host = self.address.rpartition(":")[0] if self.address else None
        return host or self.private_address

    def document(self) -> dict[str, object]:
        """Return the node as `--json` prints it; times in ISO 8601, None for what is not known."""
        return {
            "instance_id": self.instance_id,
            "state": self.state.value if self.state else None,
            "ec2_state": self.ec2_state,
            "serves": self.is_ready,
            "instance_type": self.instance_type,
            "zone": self.zone,
            "bought": self.purchase_option,
            "address": f"{self.host}:{FRONT_DOOR_PORT}" if self.host else None,
            "private_address": self.private_address,
            "public_address": self.public_address,
            "version": self.version,
            "launched_at": format_instant(self.launched_at),
            "deadline": format_instant(self.deadline) if self.deadline else None,
            "shut_out": self.is_shut_out,
        }


def node_of(instance: Mapping[str, Any]) -> Node | None:
    """Return the node of an instance of DescribeInstances; None where it is no node of any cluster."""
    tags = {tag["Key"]: tag["Value"] for tag in instance.get("Tags", [])}
    decoded = decode_tags(tags)
    if decoded is None:
        return None
    return Node(
        instance_id=instance["InstanceId"],
        state=decoded.state,
        ec2_state=instance.get("State", {}).get("Name", "unknown"),
        instance_type=instance.get("InstanceType", "unknown"),
        zone=instance.get("Placement", {}).get("AvailabilityZone", "unknown"),
        purchase_option=instance.get("InstanceLifecycle", "on-demand"),
        private_address=instance.get("PrivateIpAddress"),
        public_address=instance.get("PublicIpAddress"),
        address=decoded.address,
        version=tags.get(VERSION_TAG),
        launched_at=instance["LaunchTime"].timestamp(),
        deadline=decoded.deadline,
        cluster_keys=decoded.cluster_keys,
        is_shut_out=SHUT_OUT_TAG in tags,
    )


@dataclass(frozen=True)
class FleetStatus:
    """The nodes and their target. version: the expected one, None for any; desired: the group's desired capacity."""

    nodes: tuple[Node, ...]
    desired: int
    version: str | None
    deployed: int | None = None
    """The desired capacity that the stacks define; None where it is not known, or the fleet scales automatically."""

    launches_suspended: bool = False
    """True where the group launches no nodes, usually because several in a row gave up."""

    @property
    def ready(self) -> tuple[Node, ...]:
        """The nodes that serve on the expected version."""
        return tuple(node for node in self.nodes if node.is_ready and self.version in (None, node.version))

    @property
    def outdated(self) -> tuple[Node, ...]:
        """The nodes that still accept requests on another version."""
        serving = [node for node in self.nodes if node.state is not None and node.state.takes_requests]
        return tuple(node for node in serving if self.version not in (None, node.version))

    @property
    def is_converged(self) -> bool:
        """True where as many nodes serve as desired, and none of another version does."""
        return len(self.ready) >= self.desired and not self.outdated

    @property
    def summary(self) -> str:
        """The counts as a phrase, such as "2 of 3 nodes ready"."""
        of = f" on version {self.version}" if self.version else ""
        text = f"{len(self.ready)} of {self.desired} nodes ready{of}"
        text = f"{text}, {len(self.outdated)} on another" if self.outdated else text
        if self.launches_suspended and len(self.ready) < self.desired:
            text = f"{text}, and launches are suspended"
        if self.desired == 0:
            start = f"synkti scale {self.deployed}" if self.deployed else "synkti bootstrap"
            return f"{text}: the fleet is stopped, {start} starts it"
        return f"{text}; {self.deployed} are deployed" if self.deployed not in (None, self.desired) else text

    def document(self) -> dict[str, object]:
        """Return the status as `--json` prints it, nodes included."""
        return {
            "desired": self.desired,
            "deployed": self.deployed,
            "ready": len(self.ready),
            "whole": self.is_converged,
            "launches_suspended": self.launches_suspended,
            "version": self.version,
            "nodes": [node.document() for node in self.nodes],
        }


TABLE_HEADERS = ("NODE", "STATE", "TYPE", "ZONE", "BOUGHT", "ADDRESS", "VERSION", "AGE")
DROPPABLE = ("AGE", "VERSION", "BOUGHT", "TYPE", "ZONE")
"""Columns that a narrow terminal leaves out, the least important first."""

_STYLES = {
    NodeState.READY: "green",
    NodeState.AT_RISK: "yellow",
    NodeState.DRAINING: "yellow",
    NodeState.GONE: "bright_black",
}


def table_row(node: Node, now: float, age: str) -> tuple[str, ...]:
    """Return a node's row of the table. now: unix seconds; age: as text."""
    state = state_text(node, now)
    address = f"{host}:{FRONT_DOOR_PORT}" if (host := node.host) else "-"
    version = node.version[:12] if node.version else "-"
    return node.instance_id, state, node.instance_type, node.zone, node.purchase_option, address, version, age


def state_text(node: Node, now: float) -> str:
    """Return a node's state for a table, with the seconds that a draining one has left. now: unix seconds."""
    if node.is_shut_out:
        return "shut out"
    state = node.state.value if node.state else node.ec2_state
    if node.state is NodeState.DRAINING and node.deadline is not None:
        state += f", {max(0, round(node.deadline - now))} s left"
    return state


def row_style(node: Node) -> str:
    """Return rich's style of a node's row, by its state; empty for none."""
    return _STYLES.get(node.state, "") if node.state else ""


def select_node(nodes: Sequence[Node], given: str | None) -> Node:
    """Return the node with this instance id, prefix of one, or address.

    Args:
        nodes: all of the cluster.
        given: by the user; None selects the only node.

    Returns:
        The node; an exact instance id is preferred to an address, and that to a prefix.

    Raises:
        NotFound: there is no such node, or none at all.
        Ambiguous: there are several, and none is given, or what is given fits more than one.
        BadUsage: what is given is the prefix of every instance id.
    """
    if not nodes:
        raise NotFound("the cluster has no node now", "synkti nodes shows them; synkti scale N starts some")
    if given is None:
        if len(nodes) > 1:
            raise Ambiguous(f"there are {len(nodes)} nodes", f"say which: {', '.join(n.instance_id for n in nodes)}")
        return nodes[0]
    if given in ("", "i", "i-"):
        raise BadUsage(f"{given!r} means no node", "give an instance's id, as synkti nodes shows it")
    addresses = [node for node in nodes if given in (node.private_address, node.public_address, node.host)]
    found = [node for node in nodes if node.instance_id == given] or addresses
    found = found or [node for node in nodes if node.instance_id.startswith(given)]
    if not found:
        raise NotFound(f"there is no node {given!r}", f"there are {', '.join(node.instance_id for node in nodes)}")
    if len(found) > 1:
        raise Ambiguous(f"{given!r} may mean {' or '.join(node.instance_id for node in found)}", "give more of it")
    return found[0]
