"""`synkti shut-out`: a tag, and with --terminate the end of the instance."""

from __future__ import annotations

import boto3

from cli.exit_codes import ExitCode
from node_agent.contract.tags import SHUT_OUT_TAG
from tests.unit.cli.conftest import DeployedFleet, Run


def tags_of(instance_id: str) -> dict[str, str]:
    answer = boto3.client("ec2").describe_instances(InstanceIds=[instance_id])
    return {tag["Key"]: tag["Value"] for tag in answer["Reservations"][0]["Instances"][0]["Tags"]}


def state_of(instance_id: str) -> str:
    answer = boto3.client("ec2").describe_instances(InstanceIds=[instance_id])
    return str(answer["Reservations"][0]["Instances"][0]["State"]["Name"])


def test_a_node_is_shut_out_and_let_in_again(run: Run, fleet: DeployedFleet) -> None:
    fleet.ready()
    first, *rest = fleet.ids
    done = run("shut-out", first, "--yes")
    assert done.code == ExitCode.DONE, done.err
    assert tags_of(first)[SHUT_OUT_TAG] == "yes"
    assert not any(SHUT_OUT_TAG in tags_of(other) for other in rest)
    assert state_of(first) == "running"
    assert "it still has its role" in done.err
    nodes = run("nodes", "--json").document["nodes"]
    assert [(node["shut_out"], node["serves"]) for node in nodes if node["instance_id"] == first] == [(True, False)]
    assert "shut out" in run("nodes").out
    assert run("shut-out", first, "--undo").code == ExitCode.DONE
    assert SHUT_OUT_TAG not in tags_of(first)


def test_terminate_ends_the_instance_at_once(run: Run, fleet: DeployedFleet) -> None:
    fleet.ready()
    done = run("shut-out", fleet.ids[0], "--terminate", "--yes", "--json")
    assert done.document == {"cluster": "synkti", "node": fleet.ids[0], "shut_out": True, "terminated": True}
    assert state_of(fleet.ids[0]) in ("shutting-down", "terminated")


def test_what_excludes_each_other_and_an_unknown_node_are_errors(run: Run, fleet: DeployedFleet) -> None:
    fleet.ready()
    assert run("shut-out", fleet.ids[0], "--terminate", "--undo").code == ExitCode.USAGE
    assert run("shut-out", "i-9999", "--yes").code == ExitCode.NOT_FOUND
