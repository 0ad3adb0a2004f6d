"""`synkti drain`, `scale` and `stop`: who stays, against Auto Scaling in memory."""

from __future__ import annotations

import boto3
import pytest

from cli import nodes
from cli.account import Account
from node_agent.contract.tags import EMULATED_END_TAG
from tests.unit.cli.conftest import DeployedFleet, Run, make_fleet
from tests.unit.cli.fake_clock import FakeClock
from tests.unit.cli.memory_cloudformation import MemoryCloudFormation


def test_a_drained_node_is_replaced(fleet: DeployedFleet, run: Run) -> None:
    done = run("drain", fleet.ids[0], "--yes")
    assert (done.code, fleet.size()) == (0, (0, 4, 2))
    assert f"{fleet.ids[0]} drains and ends; another takes its place" in done.out
    assert fleet.ids[0] not in fleet.running()
    assert len(fleet.running()) == 2


def test_a_removed_node_lowers_the_size_also_at_the_minimum(fleet: DeployedFleet, run: Run) -> None:
    boto3.client("autoscaling").update_auto_scaling_group(AutoScalingGroupName=fleet.group, MinSize=2)
    document = run("drain", fleet.ids[0], "--shrink", "--yes", "--json").document
    assert document == {"cluster": "synkti", "node": fleet.ids[0], "replaced": False}
    assert fleet.size() == (1, 4, 1)
    assert fleet.running() == {fleet.ids[1]}


@pytest.mark.parametrize(("options", "how", "size"), [((), "replace", (0, 4, 2)), (("--shrink",), "shrink", (1, 4, 2))])
def test_on_the_embedded_aws_the_emulated_group_ends_the_node(
    options: tuple[str, ...],
    how: str,
    size: tuple[int, int, int],
    fleet: DeployedFleet,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It has no TerminateInstanceInAutoScalingGroup."""
    monkeypatch.setattr(Account, "is_embedded", True)
    boto3.client("autoscaling").update_auto_scaling_group(AutoScalingGroupName=fleet.group, MinSize=2 if options else 0)
    assert run("drain", fleet.ids[0], *options, "--yes").code == 0
    (tag,) = boto3.client("ec2").describe_tags(Filters=[{"Name": "key", "Values": [EMULATED_END_TAG]}])["Tags"]
    assert (tag["ResourceId"], tag["Value"]) == (fleet.ids[0], how)
    assert (fleet.size(), fleet.running()) == (size, set(fleet.ids))


def test_a_drain_needs_a_confirmation_and_a_known_node(fleet: DeployedFleet, run: Run) -> None:
    assert run("drain", fleet.ids[0]).code == 9
    assert run("drain", "i-nobody", "--yes").code == 4
    assert fleet.running() == set(fleet.ids)


def test_scaling_beyond_the_bounds_changes_them_and_reports_how_long(fleet: DeployedFleet, run: Run) -> None:
    done = run("scale", "6")
    assert done.code == 0
    assert fleet.size() == (0, 6, 6)
    assert "keeps 6 nodes, was 2" in done.out
    assert "nodes = 6" in done.err
    assert "as before" in run("scale", "6").out
    assert run("scale", "1001").code == 2
    assert run("scale", "some").code == 2


@pytest.mark.parametrize("argv", [("stop",), ("scale", "0"), ("stop", "--json")])
def test_ending_all_nodes_needs_a_confirmation_that_has_their_number(
    argv: tuple[str, ...], fleet: DeployedFleet, run: Run
) -> None:
    done = run(*argv)
    assert done.code == 9
    assert "all of synkti's nodes (2 nodes)" in done.err + done.out
    assert (fleet.size(), fleet.running()) == ((0, 4, 2), set(fleet.ids))


def test_ending_some_nodes_needs_a_confirmation_too(fleet: DeployedFleet, run: Run) -> None:
    done = run("scale", "1")
    assert done.code == 9
    assert "end 1 node of synkti, so that it keeps 1?" in done.err
    assert fleet.running() == set(fleet.ids)
    assert "synkti keeps 1 node, was 2" in run("scale", "1", "--yes").out


def test_scaling_can_wait_for_the_nodes(fleet: DeployedFleet, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    fleet.ready()
    monkeypatch.setattr(nodes, "CLOCK", FakeClock().clock)
    assert run("scale", "2", "--wait", "--json").document == {
        "cluster": "synkti",
        "desired_before": 2,
        "desired": 2,
        "ready": 2,
    }
    assert run("scale", "3", "--wait", "--within", "10").code == 8


def test_stopping_keeps_everything_but_the_nodes(fleet: DeployedFleet, run: Run) -> None:
    done = run("stop", "--yes")
    assert done.code == 0
    assert fleet.size() == (0, 4, 0)
    assert "synkti scale 2" in done.err
    assert "as before" in run("stop").out, "nothing ends, so nothing is asked"
    assert run("nodes", "--json").document["whole"] is True


@pytest.fixture
def scaled(aws: MemoryCloudFormation) -> DeployedFleet:
    """A fleet that scales automatically from 2 to 4 nodes."""
    made = make_fleet(aws, "synkti", MinNodes="2", MaxNodes="4")
    boto3.client("autoscaling").update_auto_scaling_group(AutoScalingGroupName=made.group, MinSize=2)
    return made


def test_a_stopped_fleet_that_scales_automatically_gets_its_bounds_back(scaled: DeployedFleet, run: Run) -> None:
    """With a minimum of 0 automatic scaling could take all nodes, and never start one again."""
    assert run("stop", "--yes").code == 0
    assert scaled.size() == (0, 0, 0), "automatic scaling cannot start it"
    assert run("scale", "3").code == 0
    assert scaled.size() == (2, 4, 3)
    assert run("scale", "1", "--yes").code == 0
    assert scaled.size() == (1, 4, 1)


def test_a_stopped_fleet_says_how_to_start_it(aws: MemoryCloudFormation, run: Run) -> None:
    made = make_fleet(aws, "synkti", MinNodes="0", MaxNodes="4", Nodes="2")
    made.ready()
    assert "deployed" not in run("nodes").out
    run("scale", "3")
    assert "2 of 3 nodes ready; 2 are deployed" in run("nodes").out
    run("stop", "--yes")
    assert "the fleet is stopped, synkti scale 2 starts it" in run("nodes").out
    assert run("nodes", "--json").document["deployed"] == 2
