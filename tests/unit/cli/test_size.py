"""`synkti drain`, `scale` and `stop`: who stays, against Auto Scaling in memory."""

from __future__ import annotations

import boto3
import pytest

from cli import nodes
from tests.unit.cli.conftest import DeployedFleet, Run
from tests.unit.cli.fake_clock import FakeClock


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
    done = run("stop")
    assert done.code == 0
    assert fleet.size() == (0, 4, 0)
    assert "synkti scale 2" in done.err
    assert "as before" in run("stop").out
    assert run("nodes", "--json").document["whole"] is True
