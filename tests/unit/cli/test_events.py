"""`synkti events`: what happened, in the order of cause and effect."""

from __future__ import annotations

import itertools
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from cli import events as command
from cli.adapters import records as adapter
from cli.adapters.records import Records
from cli.core.fleet_events import (
    FleetEvent,
    events_of_drains,
    events_of_group,
    events_of_records,
    in_order,
)
from cli.core.scaling_group import LaunchFailure
from cli.polling import Clock
from node_agent.contract.capacity import CapacityChange, CapacityRecord
from node_agent.contract.drain_record import DrainRecord, DrainStep
from node_agent.contract.launch_breaker import BreakerRecord, GiveUp
from node_agent.contract.states import NodeState
from node_agent.contract.table_schema import NodeRecord, TimelineStep
from tests.unit.cli.conftest import DeployedFleet, Run
from tests.unit.cli.test_streams import table_with_index

T0 = 1_764_000_000.0
LIFE = 2**40


def record(instance_id: str, *steps: tuple[str, str, float]) -> NodeRecord:
    timeline = [TimelineStep(step, source, at) for step, source, at in steps]
    return NodeRecord(instance_id, "z", "t", NodeState.GONE, 1, LIFE, {step.key: step for step in timeline})


TAKEN = record(
    "i-1",
    ("ready", "agent", T0),
    ("notice-seen", "imds", T0 + 60.26),
    ("interruption-notice", "eventbridge", T0 + 60.0),
    ("drained", "agent", T0 + 70.5),
    ("terminated", "eventbridge", T0 + 70.0),
)
DRAIN = DrainRecord(
    "i-1", 1, "notice-seen", T0 + 180, LIFE,
    (DrainStep("requested", T0 + 60.3), DrainStep("handed-off", T0 + 61.2, 3), DrainStep("finished", T0 + 62.0, 0)),
)  # fmt: skip


def test_effects_follow_their_causes_within_a_second() -> None:
    """EventBridge has whole seconds, so an end may have an earlier time than the drain before it."""
    found = in_order([*events_of_records([TAKEN]), *events_of_drains([DRAIN])], 0)
    assert [event.kind for event in found] == [
        "ready", "interruption-notice", "notice-seen", "handed-off", "drained", "terminated",
    ]  # fmt: skip
    assert found[3].what == "handed off streams: 3, 119 s before the deadline"
    assert [event.row[0] for event in found][:2] == ["2025-11-24T16:00:00Z", "2025-11-24T16:01:00Z"]


def test_an_end_without_an_announcement_is_marked() -> None:
    killed = record("i-2", ("ready", "agent", T0), ("terminated", "eventbridge", T0 + 9))
    assert [event.what for event in events_of_records([killed])][-1] == "terminated, without a notice"
    assert not any("without" in event.what for event in events_of_records([TAKEN]))


def test_an_unknown_step_is_shown_as_it_is_and_no_control_character_is() -> None:
    (event,) = events_of_records([record("i-3", ("sang\x1b[31m", "agent", T0))])
    assert event.kind == "sang\x1b[31m"
    assert event.row[2] == "sang [31m"


def test_launches_capacity_and_nodes_that_gave_up() -> None:
    capacity = CapacityRecord("g", 1, T0, T0, "e", 1, LIFE, (CapacityChange(1, T0 + 2, "no spot capacity"),))
    breaker = BreakerRecord("g", "v2", (GiveUp("i-9", T0 + 3, "no model"),), T0 + 4, "e", 1, LIFE)
    failure = LaunchFailure(T0 + 1, "InsufficientInstanceCapacity", "")
    found = in_order(events_of_group((), [failure], capacity, breaker), T0)
    assert [event.row[1:3] for event in found] == [
        ("(group)", "a launch failed: InsufficientInstanceCapacity"),
        ("(group)", "on-demand instances: 1 (no spot capacity)"),
        ("i-9", "gave up: no model"),
        ("(group)", "launches suspended, because several nodes in a row gave up"),
    ]


def test_only_events_since_then_and_each_once() -> None:
    event = FleetEvent(T0, "i-1", "ready", "ready", "agent")
    assert in_order([event, event], T0) == (event,)
    assert in_order([event], T0 + 1) == ()


@pytest.fixture
def table(fleet: DeployedFleet, monkeypatch: pytest.MonkeyPatch) -> Any:
    class Later:
        time = staticmethod(lambda: T0 + 600)

    monkeypatch.setattr(command, "time", Later)
    made = table_with_index()
    made.put_item(Item=TAKEN.to_item())
    made.put_item(Item=DRAIN.to_item())
    made.put_item(Item={"pk": "node#i-7", "sk": "record", "state": "odd"})
    made.put_item(Item={"pk": "stream#x", "sk": "record"})
    return made


def test_the_command_reads_the_records_and_the_group(table: Any, fleet: DeployedFleet, run: Run) -> None:
    shown = run("events", "--json").document
    of_taken = [event["event"] for event in shown["events"] if event["node"] == "i-1"]
    assert of_taken == ["ready", "interruption-notice", "notice-seen", "handed-off", "drained", "terminated"]
    assert {event["node"] for event in shown["events"] if event["event"] == "launched"} == set(fleet.ids)
    assert shown["not_read"] == []
    done = run("events", "--node", "i-1", "--since", "9")
    assert done.code == 0
    assert "5 events in 9 minutes" in done.out
    assert "read EC2's notice: it drains" in done.out


def test_what_cannot_be_read_is_named(fleet: DeployedFleet, run: Run) -> None:
    shown = run("events", "--json").document
    assert len(shown["events"]) == 2
    assert len(shown["not_read"]) == 2, "there is no table"


def test_a_large_table_is_not_read_whole(table: Any, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter, "MAX_PAGES", 0)
    assert Records(boto3.client("dynamodb"), table.name).of_nodes().is_complete is False
    assert "too large" in run("events").err


def test_following_prints_new_events_once(table: Any, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = itertools.count(1)

    def sleep(_: float) -> None:
        if next(looks) == 1:
            table.put_item(Item=record("i-2", ("engine-lost", "agent", T0 + 300)).to_item())
        else:
            raise KeyboardInterrupt

    monkeypatch.setattr(command, "CLOCK", Clock(lambda: 0.0, sleep))
    done = run("events", "--follow")
    assert done.code == 130
    assert done.out.count("ready: it accepts requests") == 1
    assert done.out.splitlines()[-1].startswith("2025-11-24T16:05:00Z  i-2  its engine was lost")


def test_another_error_of_aws_is_not_hidden(fleet: DeployedFleet) -> None:
    with pytest.raises(ClientError):
        Records(boto3.client("dynamodb"), "no-such-table").of_nodes()
