"""Commands about a running fleet, against EC2, Auto Scaling, SSM, EventBridge and FIS in memory."""

from __future__ import annotations

import json
import os
import shutil
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from cli import endpoint, logs, nodes
from cli.account import Account
from cli.adapters.instances import Group
from cli.core import nodes as core_nodes
from cli.core.group import troubles
from cli.waiting import Clock
from node_agent.contract.names import node_log_group_name
from tests.unit.cli.conftest import VERSION, DeployedFleet, Run, make_fleet
from tests.unit.cli.memory_cloudformation import MemoryCloudFormation


@dataclass
class FakeClock:
    """Time that passes when somebody sleeps; `then` happens at the second of its key."""

    at: float = 0.0
    then: dict[float, Any] = field(default_factory=dict)

    def sleep(self, seconds: float) -> None:
        self.at += seconds
        for second in [each for each in self.then if each <= self.at]:
            self.then.pop(second)()

    @property
    def clock(self) -> Clock:
        return Clock(lambda: self.at, self.sleep)


# --- nodes ------------------------------------------------------------------------------------------------------------


def test_nodes_are_shown_as_their_tags_tell(fleet: DeployedFleet, run: Run) -> None:
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


def test_waiting_for_a_version_waits_for_the_old_nodes_to_be_gone(
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


def test_waiting_has_an_end(fleet: DeployedFleet, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    time_ = FakeClock()
    monkeypatch.setattr(nodes, "CLOCK", time_.clock)
    done = run("nodes", "--wait", "--within", "60", "--version", "v3")
    assert done.code == 8
    assert "0 of 2 nodes ready on version v3 after 60 s" in done.err
    assert time_.at <= 60


def test_watching_and_waiting_are_two_things(fleet: DeployedFleet, run: Run) -> None:
    assert run("nodes", "--watch", "--wait").code == 2


def test_watching_tells_what_changes(fleet: DeployedFleet, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(nodes, "CLOCK", FakeClock(then={4.0: fleet.ready, 8.0: stop}).clock)
    done = run("nodes", "--watch", "--json")
    assert done.code == 130
    assert [json.loads(line)["ready"] for line in done.out.splitlines()] == [0, 2]


def test_why_there_are_too_few_is_told(fleet: DeployedFleet, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    activity = {
        "StatusCode": "Failed",
        "StartTime": datetime.now(UTC),
        "StatusMessage": "MaxSpotInstanceCountExceeded - Max spot instance count exceeded",
    }
    monkeypatch.setattr(Group, "troubles", lambda self, since: troubles([activity, activity], since))
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


def test_a_cluster_without_a_fleet_says_how_to_go_on(bucket: str, run: Run) -> None:
    done = run("nodes")
    assert (done.code, "go on with synkti bootstrap" in done.err) == (4, True)


# --- endpoint ---------------------------------------------------------------------------------------------------------


def test_an_endpoint_for_each_ready_node(fleet: DeployedFleet, run: Run) -> None:
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


def test_an_endpoint_is_asked_whether_it_answers(
    fleet: DeployedFleet, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet.ready()
    asked: list[str] = []

    def answers(url: str) -> bool:
        asked.append(url)
        return len(asked) == 1

    monkeypatch.setattr(endpoint, "answers_from_here", answers)
    done = run("endpoint", "--check")
    assert [line.split("  ")[1] for line in done.out.splitlines()] == ["answers", "does not answer from here"]
    monkeypatch.setattr(endpoint, "answers_from_here", lambda url: False)
    assert run("endpoint", "--check").code == 1


def test_nothing_listens_and_nobody_is_harmed() -> None:
    assert not endpoint.answers_from_here("http://127.0.0.1:9/v1")


# --- connect ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def became(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The programs that the command became; both of AWS's are installed."""
    found: list[list[str]] = []
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(os, "execvpe", lambda file, args, env: found.append(list(args)))
    return found


def test_a_shell_on_a_node(fleet: DeployedFleet, run: Run, became: list[list[str]]) -> None:
    assert run("connect", fleet.ids[0]).code == 0
    assert became == [["aws", "ssm", "start-session", "--target", fleet.ids[0], "--region", "us-east-1"]]


def test_a_port_of_a_node(fleet: DeployedFleet, run: Run, became: list[list[str]]) -> None:
    assert run("connect", fleet.ids[0], "--forward", "9000:8000").code == 0
    (command,) = became
    assert command[-3:] == [
        "AWS-StartPortForwardingSession",
        "--parameters",
        '{"localPortNumber": ["9000"], "portNumber": ["8000"]}',
    ]
    assert run("connect", fleet.ids[0], "--forward", "http").code == 2
    assert run("connect", fleet.ids[0], "--forward", "0:8000").code == 2


@pytest.mark.parametrize("missing", ["aws", "session-manager-plugin"])
def test_a_missing_program_is_named(
    missing: str, fleet: DeployedFleet, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None if name == missing else f"/usr/bin/{name}")
    done = run("connect", fleet.ids[0])
    assert done.code == 7
    assert f"{missing} is not installed" in done.err
    assert "https://docs.aws.amazon.com/" in done.err


def test_for_a_program_the_command_is_printed(fleet: DeployedFleet, run: Run) -> None:
    document = run("connect", fleet.ids[0], "--json").document
    assert document["command"][:3] == ["aws", "ssm", "start-session"]


def test_the_node_is_found_by_a_part_or_an_address(fleet: DeployedFleet, run: Run, became: list[list[str]]) -> None:
    first, _ = fleet.ids
    fleet.tag(first, Address="10.9.9.9:8001")
    for given in (first, first[:-1], "10.9.9.9"):
        if given == first[:-1] and fleet.ids[1].startswith(given):
            continue
        assert run("connect", given).code == 0
        assert became.pop()[4] == first
    assert run("connect", "i-").code == 2
    assert run("connect", "i-nowhere").code == 4
    assert run("connect").code == 5


# --- logs -------------------------------------------------------------------------------------------------------------


@dataclass
class MemorySsm:
    """Runs commands on nodes: answers after two looks."""

    instance_id: str
    said: str
    status: str = "Success"
    looks: int = 0
    sent: list[str] = field(default_factory=list)

    def send_command(self, **given: Any) -> dict[str, Any]:
        if given["InstanceIds"] != [self.instance_id]:
            raise client_error("InvalidInstanceId")
        self.sent += given["Parameters"]["commands"]
        return {"Command": {"CommandId": "c-1"}}

    def get_command_invocation(self, **given: Any) -> dict[str, Any]:
        self.looks += 1
        if self.looks == 1:
            raise client_error("InvocationDoesNotExist")
        if self.looks == 2:
            return {"Status": "InProgress"}
        error = "" if self.status == "Success" else "no journal"
        return {"Status": self.status, "StandardOutputContent": self.said, "StandardErrorContent": error}


def client_error(code: str) -> Exception:
    body: Any = {"Error": {"Code": code, "Message": code}}
    return ClientError(body, "SendCommand")


@pytest.fixture
def journal(fleet: DeployedFleet, monkeypatch: pytest.MonkeyPatch) -> MemorySsm:
    """The SSM that knows the first node."""
    memory = MemorySsm(
        fleet.ids[0], "2026-11-24T10:00:00 synkti-node: ready\n2026-11-24T10:00:01 synkti-node: [more]\n"
    )
    before = Account._client

    def client(self: Account, service: str, connections: int = 10) -> Any:
        return memory if service == "ssm" else before(self, service, connections)

    monkeypatch.setattr(Account, "_client", client)
    monkeypatch.setattr(logs, "CLOCK", FakeClock().clock)
    return memory


def test_a_nodes_journal(fleet: DeployedFleet, journal: MemorySsm, run: Run) -> None:
    done = run("logs", fleet.ids[0], "--lines", "50")
    assert done.code == 0
    assert done.out == journal.said
    assert journal.sent == ["journalctl --unit 'synkti-*' --lines 50 --no-pager --output short-iso"]


def test_a_journal_for_programs(fleet: DeployedFleet, journal: MemorySsm, run: Run) -> None:
    document = run("logs", fleet.ids[0], "--json").document
    assert (document["from"], len(document["lines"])) == ("journal", 2)


def test_a_node_that_ssm_does_not_know(fleet: DeployedFleet, journal: MemorySsm, run: Run) -> None:
    done = run("logs", fleet.ids[1])
    assert (done.code, "--from cloudwatch" in done.err) == (1, True)


def test_a_command_that_fails_on_the_node(fleet: DeployedFleet, journal: MemorySsm, run: Run) -> None:
    journal.status = "Failed"
    done = run("logs", fleet.ids[0])
    assert (done.code, "no journal" in done.err) == (1, True)


def test_a_command_that_never_ends_is_not_waited_for(
    fleet: DeployedFleet, journal: MemorySsm, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "get_command_invocation", lambda **_: {"Status": "InProgress"}, raising=False)
    assert run("logs", fleet.ids[0]).code == 8


def test_following_becomes_a_session(
    fleet: DeployedFleet, journal: MemorySsm, run: Run, became: list[list[str]]
) -> None:
    run("logs", fleet.ids[0], "--follow")
    assert "AWS-StartInteractiveCommand" in became[0]
    assert "--follow" in became[0][-1]
    assert run("logs", "--follow").code == 2
    assert run("logs", fleet.ids[0], "--follow", "--json").code == 2


def test_the_lines_of_a_node_that_is_gone(fleet: DeployedFleet, run: Run) -> None:
    client, group = boto3.client("logs"), node_log_group_name("synkti")
    gone = "i-0dead"
    assert run("logs", gone).code == 4
    client.create_log_group(logGroupName=group)
    for stream, text in ((gone, "the end"), (fleet.ids[0], "still here")):
        client.create_log_stream(logGroupName=group, logStreamName=stream)
        event: Any = {"timestamp": round(time.time() * 1000), "message": text}
        client.put_log_events(logGroupName=group, logStreamName=stream, logEvents=[event])
    done = run("logs", gone)
    assert done.code == 0
    assert done.out.strip().endswith(f"{gone} the end")
    every = run("logs", "--json").document
    assert sorted(line["message"] for line in every["lines"]) == ["still here", "the end"]
    assert run("logs", "i-0beef").code == 4
    assert run("logs", gone, "--from", "journal").code == 4


def test_the_log_that_a_node_left_at_its_end(fleet: DeployedFleet, run: Run) -> None:
    gone, s3 = "i-0dead", boto3.client("s3")
    assert run("logs", gone, "--from", "last").code == 4, "the state stack names no checkpoints bucket"
    fleet.cloudformation.stacks["synkti-state"].outputs = {"CheckpointsBucket": "checkpoints"}
    s3.create_bucket(Bucket="checkpoints")
    assert run("logs", gone).code == 4
    s3.put_object(Bucket="checkpoints", Key=f"end-of-life/{gone}/first-boot.log", Body=b"one\ntwo\nthree\n")
    done = run("logs", gone, "--lines", "2")
    assert (done.code, done.out) == (0, "two\nthree\n")
    document = run("logs", gone, "--from", "last", "--json").document
    assert document["from"] == f"s3://checkpoints/end-of-life/{gone}/first-boot.log"
    assert run("logs", gone, "--from", "cloudwatch").code == 4
    assert run("logs", "--from", "last").code == 2


# --- drill ------------------------------------------------------------------------------------------------------------


def rule(source: list[str]) -> None:
    pattern = json.dumps({"source": source, "detail-type": ["EC2 Spot Instance Interruption Warning"]})
    boto3.client("events").put_rule(Name="synkti-events-node-interrupted", EventPattern=pattern)


def test_a_drill_is_refused_where_drills_are_off(fleet: DeployedFleet, run: Run) -> None:
    rule(["aws.ec2"])
    done = run("drill", fleet.ids[0])
    assert done.code == 1
    assert "drills = true" in done.err


def test_a_drill_is_an_event_as_ec2s(fleet: DeployedFleet, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
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
    document = run("drill", fleet.ids[0], "--json").document
    assert document["event"] == "EC2 Spot Instance Interruption Warning"
    assert sent[0]["Source"] == "synkti.drill"
    assert json.loads(sent[0]["Detail"]) == {"instance-id": fleet.ids[0], "instance-action": "terminate"}
    assert run("drill", fleet.ids[0], "--rebalance").code == 0
    assert sent[1]["DetailType"] == "EC2 Instance Rebalance Recommendation"


class MemoryFis:
    """FIS's three calls; holds what was asked for."""

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


def test_a_real_interruption(fleet: DeployedFleet, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    fis, before = MemoryFis(), Account._client

    def client(self: Account, service: str, connections: int = 10) -> Any:
        return fis if service == "fis" else before(self, service, connections)

    monkeypatch.setattr(Account, "_client", client)
    assert run("drill", fleet.ids[0], "--fis", "--fis-role", ROLE, "--yes").code == 1, "it is on-demand"
    monkeypatch.setattr("cli.adapters.instances.node_of", spot())
    assert run("drill", fleet.ids[0], "--fis").code == 2
    assert run("drill", fleet.ids[0], "--fis", "--fis-role", ROLE).code == 9
    assert fis.template == {}, "nobody has said yes"
    document = run("drill", fleet.ids[0], "--fis", "--fis-role", ROLE, "--yes", "--json").document
    assert document["experiment"] == "EXP of EXT1"
    assert fis.deleted == ["EXT1"]
    arn = f"arn:aws:ec2:us-east-1:123456789012:instance/{fleet.ids[0]}"
    assert fis.template["targets"]["node"]["resourceArns"] == [arn]
    assert fis.template["roleArn"] == ROLE
    assert run("drill", fleet.ids[0], "--fis", "--rebalance").code == 2


def spot() -> Any:
    """As node_of, of an EC2 that says `spot`, which moto's Auto Scaling never does."""
    before = core_nodes.node_of
    return lambda instance: before({**instance, "InstanceLifecycle": "spot"})


# --- drain ------------------------------------------------------------------------------------------------------------


def test_a_node_is_drained_and_replaced(fleet: DeployedFleet, run: Run) -> None:
    done = run("drain", fleet.ids[0], "--yes")
    assert (done.code, fleet.size()) == (0, (0, 4, 2))
    assert f"{fleet.ids[0]} drains and ends; another takes its place" in done.out
    assert fleet.ids[0] not in fleet.running()
    assert len(fleet.running()) == 2


def test_a_node_less_is_kept_also_where_the_least_number_was_reached(fleet: DeployedFleet, run: Run) -> None:
    boto3.client("autoscaling").update_auto_scaling_group(AutoScalingGroupName=fleet.group, MinSize=2)
    document = run("drain", fleet.ids[0], "--shrink", "--yes", "--json").document
    assert document == {"cluster": "synkti", "node": fleet.ids[0], "replaced": False}
    assert fleet.size() == (1, 4, 1)
    assert fleet.running() == {fleet.ids[1]}


def test_nobody_is_drained_without_a_yes_nor_by_a_name_that_nobody_has(fleet: DeployedFleet, run: Run) -> None:
    assert run("drain", fleet.ids[0]).code == 9
    assert run("drain", "i-nobody", "--yes").code == 4
    assert fleet.running() == set(fleet.ids)


# --- scale, stop ------------------------------------------------------------------------------------------------------


def test_scaling_goes_beyond_the_bounds_and_says_for_how_long(fleet: DeployedFleet, run: Run) -> None:
    done = run("scale", "6")
    assert done.code == 0
    assert fleet.size() == (0, 6, 6)
    assert "keeps 6 nodes, was 2" in done.out
    assert "nodes = 6" in done.err
    assert "as before" in run("scale", "6").out
    assert run("scale", "1001").code == 2
    assert run("scale", "some").code == 2


def test_scaling_can_wait(fleet: DeployedFleet, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
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
