"""Nodes from EC2's answers, whether the fleet is whole, and why it is not: pure."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.core.nodes import FleetStatus, Node, node_of, row_style, select_node, table_row
from cli.core.scaling_group import deployed_size, launch_failures, with_desired
from cli.errors import Ambiguous, BadUsage, NotFound
from node_agent.contract.group_size import DeployedSize, GroupSize, as_deployed
from node_agent.contract.states import NodeState

LAUNCHED = datetime(2026, 11, 24, 10, 0, tzinfo=UTC)


def instance(**changes: Any) -> dict[str, Any]:
    """Return a node as DescribeInstances describes it."""
    tags = {"SynktiCluster": "synkti", "SynktiRole": "worker", "SynktiState": "ready", "SynktiVersion": "v2"}
    tags |= changes.pop("tags", {})
    return {
        "InstanceId": "i-0a1",
        "InstanceType": "g6.xlarge",
        "State": {"Name": "running"},
        "Placement": {"AvailabilityZone": "us-east-1a"},
        "InstanceLifecycle": "spot",
        "PrivateIpAddress": "10.0.0.1",
        "PublicIpAddress": "3.91.24.7",
        "LaunchTime": LAUNCHED,
        "Tags": [{"Key": key, "Value": value} for key, value in tags.items()],
        **changes,
    }


def node(**changes: Any) -> Node:
    found = node_of(instance())
    assert found is not None
    return replace(found, **changes)


def test_a_node_has_the_fields_of_its_instance_and_tags() -> None:
    found = node()
    assert (found.state, found.purchase_option, found.zone, found.version) == (
        NodeState.READY,
        "spot",
        "us-east-1a",
        "v2",
    )
    assert found.is_ready
    assert found.document()["launched_at"] == "2026-11-24T10:00:00.000Z"
    assert node_of(instance(Tags=[{"Key": "Name", "Value": "somebody else's"}])) is None


@pytest.mark.parametrize("state", NodeState)
def test_a_node_counts_as_ready_where_it_accepts_requests(state: NodeState) -> None:
    """An at-risk node serves, although peers choose it last."""
    serves = state in (NodeState.READY, NodeState.AT_RISK)
    seen = node(state=state)
    assert (seen.is_ready, seen.document()["serves"]) == (serves, serves)
    assert FleetStatus((seen,), 1, "v2").is_converged is serves
    assert not node(state=state, ec2_state="shutting-down").is_ready


def test_fields_missing_in_ec2_are_unknown_or_on_demand() -> None:
    bare = instance()
    for key in ("InstanceLifecycle", "PrivateIpAddress", "PublicIpAddress", "Placement", "State"):
        del bare[key]
    found = node_of(bare)
    assert found is not None
    assert (found.purchase_option, found.zone, found.ec2_state, found.host) == ("on-demand", "unknown", "unknown", None)
    assert not found.is_ready


def test_a_stopping_instance_is_not_ready_whatever_its_tag() -> None:
    assert not node(ec2_state="shutting-down").is_ready


@pytest.mark.parametrize(
    ("changes", "outside", "inside"),
    [
        ({}, "3.91.24.7", "10.0.0.1"),
        ({"public_address": None}, "10.0.0.1", "10.0.0.1"),
        ({"address": "127.0.0.5:8001"}, "127.0.0.5", "127.0.0.5"),
        ({"public_address": None, "private_address": None}, None, None),
    ],
)
def test_the_hosts_of_a_node_depend_on_its_addresses(
    changes: dict[str, Any], outside: str | None, inside: str | None
) -> None:
    assert (node(**changes).host, node(**changes).private_host) == (outside, inside)


def test_a_node_is_a_line_of_the_table() -> None:
    assert table_row(node(), 0.0, "4 min") == (
        "i-0a1",
        "ready",
        "g6.xlarge",
        "us-east-1a",
        "spot",
        "3.91.24.7:8000",
        "v2",
        "4 min",
    )
    draining = node(state=NodeState.DRAINING, deadline=100.0)
    assert table_row(draining, 58.4, "")[1] == "draining, 42 s left"
    assert table_row(draining, 200.0, "")[1] == "draining, 0 s left"
    silent = node(state=None, ec2_state="pending", version=None, public_address=None, private_address=None)
    assert table_row(silent, 0.0, "")[1::4] == ("pending", "-")
    assert (row_style(node()), row_style(silent)) == ("green", "")


def status(*nodes: Node, desired: int = 2, version: str | None = None) -> FleetStatus:
    return FleetStatus(nodes, desired, version)


def test_a_fleet_has_converged_when_the_desired_number_is_ready() -> None:
    assert status(node(), node()).is_converged
    assert not status(node(), node(state=NodeState.STARTING)).is_converged
    assert status(node(), node(state=NodeState.AT_RISK)).is_converged, "an at-risk node serves"
    assert status(desired=0).is_converged
    assert status(node(), node(), node()).is_converged, "one more, while one takes another's place"


def test_a_version_has_converged_when_no_other_is_ready() -> None:
    old = node(version="v1")
    assert not status(node(), old, version="v2").is_converged
    assert not status(node(), node(), old, version="v2").is_converged
    assert status(node(), node(), replace(old, state=NodeState.DRAINING), version="v2").is_converged
    assert not status(node(), node(version=None), version="v2").is_converged
    assert status(node(), node(), old, version="v2").summary == "2 of 2 nodes ready on version v2, 1 on another"


NODES = (node(), node(instance_id="i-0a2", private_address="10.0.0.2", public_address="3.91.24.8"))


@pytest.mark.parametrize(
    ("given_", "found"),
    [("i-0a1", 0), ("i-0a2", 1), ("10.0.0.2", 1), ("3.91.24.7", 0)],
)
def test_a_node_is_named_by_its_id_or_an_address(given_: str, found: int) -> None:
    assert select_node(NODES, given_) is NODES[found]


def test_an_ambiguous_name_of_a_node_is_an_error() -> None:
    assert select_node(NODES[:1], None) is NODES[0]
    assert select_node((node(instance_id="i-0b"), NODES[0]), "i-0b").instance_id == "i-0b"
    with pytest.raises(Ambiguous, match="there are 2 nodes"):
        select_node(NODES, None)
    with pytest.raises(Ambiguous, match="i-0a1 or i-0a2"):
        select_node(NODES, "i-0a")
    with pytest.raises(NotFound, match="no node 'i-0c'"):
        select_node(NODES, "i-0c")
    with pytest.raises(NotFound, match="no node now"):
        select_node((), None)
    with pytest.raises(BadUsage):
        select_node(NODES, "i-")


def test_an_exact_id_takes_precedence_over_a_prefix() -> None:
    short, long = node(instance_id="i-0a"), node(instance_id="i-0a1")
    assert select_node((long, short), "i-0a") is short


@given(st.integers(0, 1_000), st.integers(0, 1_000), st.integers(0, 1_000))
def test_desired_nodes_widen_the_bounds_of_a_group(least: int, more: int, nodes: int) -> None:
    size = with_desired(GroupSize(least, least + more, least), nodes, None)
    assert size.minimum <= size.desired == nodes <= size.maximum
    assert size.minimum <= least
    assert size.maximum >= least + more


sizes = st.integers(0, 1_000)


@given(sizes, sizes, st.lists(st.integers(0, 1_000), min_size=1), st.none() | sizes)
def test_scaling_and_stopping_in_any_order_end_with_the_deployed_bounds(
    least: int, more: int, order: list[int], fixed: int | None
) -> None:
    deployed = DeployedSize(least, least + more, fixed)
    size = GroupSize(least, least + more, least)
    for nodes in order:
        size = with_desired(size, nodes, deployed)
        assert size.minimum <= size.desired == nodes <= size.maximum
        assert nodes == 0 or size == GroupSize(min(least, nodes), max(least + more, nodes), nodes)
    again = as_deployed(size, deployed)
    assert (again.minimum, again.maximum) == (least, least + more)
    assert again.minimum <= again.desired <= again.maximum


def test_the_deployed_size_is_that_of_the_stacks_outputs() -> None:
    outputs = {"MinNodes": "2", "MaxNodes": "10"}
    assert deployed_size(outputs.get) == DeployedSize(2, 10, None)
    assert deployed_size({**outputs, "Nodes": "3"}.get) == DeployedSize(2, 10, 3)
    assert deployed_size({"Nodes": "3"}.get) is None
    assert deployed_size({"MinNodes": "", "MaxNodes": "many"}.get) is None


def activity(message: str, at: int = 100, code: str = "Failed") -> dict[str, Any]:
    return {"StatusCode": code, "StatusMessage": message, "StartTime": datetime.fromtimestamp(at, UTC)}


@pytest.mark.parametrize(
    ("message", "advice"),
    [
        ("MaxSpotInstanceCountExceeded - Max spot instance count exceeded", "quota for spot GPUs"),
        ("You have requested more vCPU capacity than your current vCPU limit of 0", "quota for on-demand GPUs"),
        ("We currently do not have sufficient g6.xlarge capacity (InsufficientInstanceCapacity)", "on_demand_base"),
        ("UnfulfillableCapacity: no Spot capacity available that matches your request", "more instance_types"),
        ("Your requested instance type is not supported in your requested Availability Zone", "others"),
        ("Launching was abandoned: lifecycle action with action result ABANDON", "did not become ready in time"),
    ],
)
def test_each_message_of_ec2_has_an_advice(message: str, advice: str) -> None:
    (found,) = launch_failures([activity(message)], since=0)
    assert found.message == message
    assert advice in found.advice


def test_each_reason_is_reported_once_with_its_newest_time() -> None:
    capacity = "InsufficientInstanceCapacity in us-east-1"
    found = launch_failures(
        [
            activity("Launching a new EC2 instance", code="Successful"),
            activity(f"{capacity}b", at=300),
            activity(f"{capacity}a", at=200),
            activity("something unknown", at=150),
            activity("VcpuLimitExceeded", at=50),
        ],
        since=100,
    )
    assert [(each.at, each.message) for each in found] == [
        (300, f"{capacity}b"),
        (150, "something unknown"),
    ]
    assert found[1].advice == ""
    unnamed = {"StatusCode": "Cancelled", "StartTime": datetime.fromtimestamp(1, UTC)}
    assert launch_failures([unnamed], since=0)[0].message == "no reason given"
