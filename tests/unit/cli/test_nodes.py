"""`synkti nodes` and `synkti endpoint`, against EC2 and Auto Scaling in memory."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
import pytest

from cli import endpoint, nodes
from cli.adapters.instances import Group
from cli.core.scaling_group import launch_failures
from node_agent.contract.launch_breaker import BreakerRecord, GiveUp, breaker_key
from tests.unit.cli.conftest import VERSION, DeployedFleet, Run, make_fleet
from tests.unit.cli.fake_clock import FakeClock
from tests.unit.cli.memory_cloudformation import MemoryCloudFormation


def test_nodes_are_shown_with_the_state_in_their_tags(fleet: DeployedFleet, run: Run) -> None:
    first, second = fleet.ids
    fleet.tag(first, State="ready")
    done = run("nodes")
    assert done.code == 0
    assert done.out.splitlines()[0] == "synkti in us-east-1: 1 of 2 nodes ready"
    rows = {row[0]: row[1:] for row in done.table[2:]}
    assert rows[first][:4] == ["ready", "g6.xlarge", "us-east-1a", "on-demand"]
    assert rows[second][0] == "running"
    assert rows[first][5] == VERSION


def test_nodes_for_programs(fleet: DeployedFleet, run: Run) -> None:
    deadline = datetime.now(UTC) + timedelta(seconds=90)
    fleet.tag(fleet.ids[0], State="draining", Deadline=deadline.isoformat())
    document = run("nodes", "--json").document
    assert (document["cluster"], document["desired"], document["ready"], document["whole"]) == ("synkti", 2, 0, False)
    draining = next(node for node in document["nodes"] if node["instance_id"] == fleet.ids[0])
    assert draining["state"] == "draining"
    assert draining["deadline"].startswith(deadline.isoformat()[:19])
    assert "s left" in run("nodes").out


def test_waiting_ends_when_every_node_is_ready(fleet: DeployedFleet, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    time_ = FakeClock(then={4.0: fleet.ready})
    monkeypatch.setattr(nodes, "CLOCK", time_.clock)
    done = run("nodes", "--wait")
    assert done.code == 0
    assert time_.at == 4.0
    assert "2 of 2 nodes ready" in done.out
    assert f"{fleet.ids[0]} running (0 of 2 nodes ready)" in done.err


def test_waiting_for_a_version_waits_until_the_old_nodes_are_gone(
    fleet: DeployedFleet, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet.ready("v1")
    answer = boto3.client("ec2").run_instances(ImageId="ami-12c6146b", MinCount=1, MaxCount=1)
    old = answer["Instances"][0]["InstanceId"]
    fleet.tag(old, Cluster="synkti", Role="worker", State="ready", Version="v1")
    leave = {10.0: lambda: boto3.client("ec2").terminate_instances(InstanceIds=[old])}
    time_ = FakeClock(then={6.0: fleet.ready, **leave})
    monkeypatch.setattr(nodes, "CLOCK", time_.clock)
    done = run("nodes", "--wait", "--version", "deployed")
    assert done.code == 0
    assert time_.at == 10.0
    assert "2 of 2 nodes ready on version v2, 1 on another" in done.err
    assert f"{old} is gone" in done.err


def test_waiting_has_a_timeout(fleet: DeployedFleet, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    time_ = FakeClock()
    monkeypatch.setattr(nodes, "CLOCK", time_.clock)
    done = run("nodes", "--wait", "--within", "60", "--version", "v3")
    assert done.code == 8
    assert "0 of 2 nodes ready on version v3 after 60 s" in done.err
    assert time_.at <= 60


def test_watching_and_waiting_are_exclusive(fleet: DeployedFleet, run: Run) -> None:
    assert run("nodes", "--watch", "--wait").code == 2


def test_watching_prints_changes(fleet: DeployedFleet, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(nodes, "CLOCK", FakeClock(then={4.0: fleet.ready, 8.0: stop}).clock)
    done = run("nodes", "--watch", "--json")
    assert done.code == 130
    assert [json.loads(line)["ready"] for line in done.out.splitlines()] == [0, 2]


def test_the_reason_for_missing_nodes_is_printed(
    fleet: DeployedFleet, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    activity = {
        "StatusCode": "Failed",
        "StartTime": datetime.now(UTC),
        "StatusMessage": "MaxSpotInstanceCountExceeded - Max spot instance count exceeded",
    }
    monkeypatch.setattr(Group, "launch_failures", lambda self, since: launch_failures([activity, activity], since))
    done = run("nodes")
    assert "the quota for spot GPUs is too small" in done.err
    assert done.err.count("MaxSpotInstanceCountExceeded") == 1


def test_no_cluster_is_4_and_several_are_5(aws: MemoryCloudFormation, run: Run) -> None:
    assert run("nodes").code == 4
    make_fleet(aws, "one")
    make_fleet(aws, "two")
    done = run("nodes")
    assert done.code == 5
    assert "--cluster" in done.err
    assert run("nodes", "--cluster", "two").code == 0
    assert run("nodes", "--cluster", "three").code == 4
    assert run("nodes", "--cluster", "THREE").code == 78
    error = run("nodes", "--json")
    assert (error.code, error.document["error"]["code"]) == (5, "ambiguous")


def test_a_cluster_without_a_fleet_names_the_next_step(bucket: str, run: Run) -> None:
    done = run("nodes")
    assert (done.code, "continue with synkti bootstrap" in done.err) == (4, True)


def test_each_ready_node_has_an_endpoint(fleet: DeployedFleet, run: Run) -> None:
    assert run("endpoint").code == 4
    fleet.tag(fleet.ids[0], State="ready")
    fleet.tag(fleet.ids[1], State="ready", Address="127.0.0.5:8001")
    done = run("endpoint")
    assert "http://127.0.0.5:8000/v1" in done.out.splitlines()
    assert len(done.out.splitlines()) == 2
    assert "synkti gateway --cluster synkti" in done.err
    assert run("endpoint", "--json").document["kind"] == "nodes"


def test_the_load_balancers_endpoint_comes_first(aws: MemoryCloudFormation, run: Run) -> None:
    make_fleet(aws, "synkti", Endpoint="https://synkti.example")
    assert run("endpoint").out == "https://synkti.example/v1\n"
    assert run("endpoint", "--private").code == 4


def test_an_endpoint_is_checked_for_an_answer(fleet: DeployedFleet, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    fleet.ready()
    requested: list[str] = []

    def answers(url: str) -> bool:
        requested.append(url)
        return len(requested) == 1

    monkeypatch.setattr(endpoint, "is_reachable", answers)
    done = run("endpoint", "--check")
    assert [line.split("  ")[1] for line in done.out.splitlines()] == ["answers", "does not answer from here"]
    monkeypatch.setattr(endpoint, "is_reachable", lambda url: False)
    assert run("endpoint", "--check").code == 1


def test_an_endpoint_without_a_listener_is_no_error() -> None:
    assert not endpoint.is_reachable("http://127.0.0.1:9/v1")


def breaker_record(reason: str) -> None:
    """Three nodes gave up a minute ago, as the Lambdas record it."""
    keys = (("pk", "HASH"), ("sk", "RANGE"))
    schema: Any = [{"AttributeName": name, "KeyType": kind} for name, kind in keys]
    table = boto3.resource("dynamodb").create_table(
        TableName="synkti-records",
        KeySchema=schema,
        AttributeDefinitions=[{"AttributeName": name, "AttributeType": "S"} for name, _ in keys],
        BillingMode="PAY_PER_REQUEST",
    )
    at = time.time() - 60
    give_ups = tuple(GiveUp(f"i-{number}", at, reason) for number in range(3))
    table.put_item(Item=BreakerRecord("synkti-fleet", "v2", give_ups, at, "e", 3, int(at) + 999).to_item())


def test_nodes_that_gave_up_are_shown_with_the_engines_last_words(fleet: DeployedFleet, run: Run) -> None:
    breaker_record("the engine cannot start: ValueError: 16.0 GiB KV cache is needed")
    boto3.client("autoscaling").suspend_processes(AutoScalingGroupName=fleet.group, ScalingProcesses=["Launch"])
    done = run("nodes")
    assert "i-2 gave up 1 min ago: the engine cannot start: ValueError: 16.0 GiB KV cache is needed" in done.err
    assert "synkti logs i-2 --from last" in done.err
    assert "launches are suspended: mend" in done.err
    assert run("nodes", "--json").document["launches_suspended"] is True


def test_waiting_ends_at_once_where_nothing_is_launched(fleet: DeployedFleet, run: Run) -> None:
    breaker_record("no model")
    boto3.client("autoscaling").suspend_processes(AutoScalingGroupName=fleet.group, ScalingProcesses=["Launch"])
    done = run("nodes", "--wait")
    assert done.code == 1
    assert "waiting cannot help" in done.err
    assert "synkti resume" in done.err
    assert "no model" in done.err


def test_resume_lets_the_group_launch_again_and_says_where_nothing_was_to_do(fleet: DeployedFleet, run: Run) -> None:
    client = boto3.client("autoscaling")
    client.suspend_processes(AutoScalingGroupName=fleet.group, ScalingProcesses=["Launch", "AZRebalance"])
    assert "launches nodes again" in run("resume").out
    (group,) = client.describe_auto_scaling_groups(AutoScalingGroupNames=[fleet.group])["AutoScalingGroups"]
    assert [each["ProcessName"] for each in group["SuspendedProcesses"]] == ["AZRebalance"]
    assert run("resume", "--json").document == {"cluster": "synkti", "resumed": False}


def test_a_breakers_record_that_cannot_be_read_is_no_error(fleet: DeployedFleet, run: Run) -> None:
    breaker_record("x")
    boto3.resource("dynamodb").Table("synkti-records").put_item(Item={**breaker_key("synkti-fleet"), "give_ups": "?"})
    done = run("nodes")
    assert done.code == 0
    assert "why nodes gave up is not known: the record cannot be parsed" in done.err
