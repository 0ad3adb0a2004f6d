"""`synkti drill`, against EventBridge and FIS in memory."""

from __future__ import annotations

import json
from typing import Any

import boto3
import pytest

from cli.account import Account
from cli.core import nodes as core_nodes
from tests.unit.cli.conftest import DeployedFleet, Run


def rule(source: list[str]) -> None:
    pattern = json.dumps({"source": source, "detail-type": ["EC2 Spot Instance Interruption Warning"]})
    boto3.client("events").put_rule(Name="synkti-events-node-interrupted", EventPattern=pattern)


def test_a_drill_is_refused_where_drills_are_disabled(fleet: DeployedFleet, run: Run) -> None:
    rule(["aws.ec2"])
    done = run("drill", fleet.ids[0])
    assert done.code == 1
    assert "drills = true" in done.err


def test_a_drill_sends_an_event_in_the_form_of_ec2s(
    fleet: DeployedFleet, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    rule(["aws.ec2", "synkti.drill"])
    sent: list[dict[str, Any]] = []
    before = Account._client

    def client(self: Account, service: str, connections: int = 10) -> Any:
        made = before(self, service, connections)
        if service == "events":
            put = made.put_events

            def put_events(**given: Any) -> Any:
                sent.extend(given["Entries"])
                return put(**given)

            made.put_events = put_events
        return made

    monkeypatch.setattr(Account, "_client", client)
    declined = run("drill", fleet.ids[0])
    assert (declined.code, sent) == (9, []), "a drill tags a node: it asks first"
    assert fleet.ids[0] in declined.err
    document = run("drill", fleet.ids[0], "--yes", "--json").document
    assert document["event"] == "EC2 Spot Instance Interruption Warning"
    assert sent[0]["Source"] == "synkti.drill"
    assert json.loads(sent[0]["Detail"]) == {"instance-id": fleet.ids[0], "instance-action": "terminate"}
    assert run("drill", fleet.ids[0], "--rebalance", "--yes").code == 0
    assert sent[1]["DetailType"] == "EC2 Instance Rebalance Recommendation"


class MemoryFis:
    """FIS's three calls; holds the template that was created."""

    def __init__(self) -> None:
        self.template: dict[str, Any] = {}
        self.deleted: list[str] = []

    def create_experiment_template(self, **given: Any) -> dict[str, Any]:
        self.template = given
        return {"experimentTemplate": {"id": "EXT1"}}

    def start_experiment(self, **given: Any) -> dict[str, Any]:
        return {"experiment": {"id": f"EXP of {given['experimentTemplateId']}"}}

    def delete_experiment_template(self, **given: Any) -> None:
        self.deleted.append(given["id"])


ROLE = "arn:aws:iam::123456789012:role/drills"


def test_a_real_interruption_is_an_experiment_of_fis(
    fleet: DeployedFleet, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    fis, before = MemoryFis(), Account._client

    def client(self: Account, service: str, connections: int = 10) -> Any:
        return fis if service == "fis" else before(self, service, connections)

    monkeypatch.setattr(Account, "_client", client)
    assert run("drill", fleet.ids[0], "--fis", "--fis-role", ROLE, "--yes").code == 1, "it is on-demand"
    monkeypatch.setattr("cli.adapters.instances.node_of", spot())
    assert run("drill", fleet.ids[0], "--fis").code == 2
    assert run("drill", fleet.ids[0], "--fis", "--fis-role", ROLE).code == 9
    assert fis.template == {}, "nothing was confirmed"
    document = run("drill", fleet.ids[0], "--fis", "--fis-role", ROLE, "--yes", "--json").document
    assert document["experiment"] == "EXP of EXT1"
    assert fis.deleted == ["EXT1"]
    arn = f"arn:aws:ec2:us-east-1:123456789012:instance/{fleet.ids[0]}"
    assert fis.template["targets"]["node"]["resourceArns"] == [arn]
    assert fis.template["roleArn"] == ROLE
    assert run("drill", fleet.ids[0], "--fis", "--rebalance").code == 2


def spot() -> Any:
    """As node_of, with the lifecycle `spot`, which moto's Auto Scaling never sets."""
    before = core_nodes.node_of
    return lambda instance: before({**instance, "InstanceLifecycle": "spot"})
