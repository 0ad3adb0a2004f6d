"""`synkti connect` and `synkti logs`, against EC2, SSM, CloudWatch and S3 in memory."""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import dataclass, field
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from cli import logs
from cli.account import Account
from node_agent.contract.names import node_log_group_name
from tests.unit.cli.conftest import DeployedFleet, Run
from tests.unit.cli.fake_clock import FakeClock


@pytest.fixture
def became(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The programs that the command became; both of AWS's are installed."""
    found: list[list[str]] = []
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(os, "execvpe", lambda file, args, env: found.append(list(args)))
    return found


def test_a_shell_is_a_session_on_the_node(fleet: DeployedFleet, run: Run, became: list[list[str]]) -> None:
    assert run("connect", fleet.ids[0]).code == 0
    assert became == [["aws", "ssm", "start-session", "--target", fleet.ids[0], "--region", "us-east-1"]]


def test_a_port_of_a_node_is_forwarded(fleet: DeployedFleet, run: Run, became: list[list[str]]) -> None:
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


def test_a_node_is_found_by_a_prefix_or_an_address(fleet: DeployedFleet, run: Run, became: list[list[str]]) -> None:
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


@dataclass
class MemorySsm:
    """Runs commands on nodes: answers at the third poll."""

    instance_id: str
    output: str
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
        return {"Status": self.status, "StandardOutputContent": self.output, "StandardErrorContent": error}


def client_error(code: str) -> Exception:
    body: Any = {"Error": {"Code": code, "Message": code}}
    return ClientError(body, "SendCommand")


@pytest.fixture
def journal(fleet: DeployedFleet, monkeypatch: pytest.MonkeyPatch) -> MemorySsm:
    """An SSM in which the first node is registered."""
    memory = MemorySsm(fleet.ids[0], "2026-11-24T10:00:00 synkti: ready\n2026-11-24T10:00:01 synkti: [more]\n")
    before = Account._client

    def client(self: Account, service: str, connections: int = 10) -> Any:
        return memory if service == "ssm" else before(self, service, connections)

    monkeypatch.setattr(Account, "_client", client)
    monkeypatch.setattr(logs, "CLOCK", FakeClock().clock)
    return memory


def test_the_journal_of_a_node_is_printed(fleet: DeployedFleet, journal: MemorySsm, run: Run) -> None:
    done = run("logs", fleet.ids[0], "--lines", "50")
    assert done.code == 0
    assert done.out == journal.output
    assert journal.sent == ["journalctl --unit 'synkti*' --lines 50 --no-pager --output short-iso"]


def test_the_journal_is_json_for_programs(fleet: DeployedFleet, journal: MemorySsm, run: Run) -> None:
    document = run("logs", fleet.ids[0], "--json").document
    assert (document["from"], len(document["lines"])) == ("journal", 2)


def test_a_node_without_ssm_is_an_error(fleet: DeployedFleet, journal: MemorySsm, run: Run) -> None:
    done = run("logs", fleet.ids[1])
    assert (done.code, "--from cloudwatch" in done.err) == (1, True)


def test_a_command_that_fails_on_the_node_is_an_error(fleet: DeployedFleet, journal: MemorySsm, run: Run) -> None:
    journal.status = "Failed"
    done = run("logs", fleet.ids[0])
    assert (done.code, "no journal" in done.err) == (1, True)


def test_a_command_that_never_ends_is_waited_for_a_bounded_time(
    fleet: DeployedFleet, journal: MemorySsm, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "get_command_invocation", lambda **_: {"Status": "InProgress"}, raising=False)
    assert run("logs", fleet.ids[0]).code == 8


def test_following_the_journal_is_a_session(
    fleet: DeployedFleet, journal: MemorySsm, run: Run, became: list[list[str]]
) -> None:
    run("logs", fleet.ids[0], "--follow")
    assert "AWS-StartInteractiveCommand" in became[0]
    assert "--follow" in became[0][-1]
    assert run("logs", "--follow").code == 2
    assert run("logs", fleet.ids[0], "--follow", "--json").code == 2


def test_the_log_of_a_terminated_node_is_found(fleet: DeployedFleet, run: Run) -> None:
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


def test_the_log_that_a_node_uploaded_at_its_end_is_printed(fleet: DeployedFleet, run: Run) -> None:
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
