"""The handler of launches, whole: a raw event in, a record and a group's base out, with Powertools' own idempotency.

The table is moto's; the group is the twin in memory, because moto changes a base only together with a launch template.
"""

from __future__ import annotations

import importlib
import json
from types import ModuleType
from typing import Any

import pytest
from botocore.exceptions import ClientError

from cli.core.cost.lines import STEADY_METRICS
from lambdas import launch_events
from lambdas.adapters.dynamodb import DynamoCapacity
from lambdas.adapters.memory import MemoryBreaker, MemoryGroups, MemoryInstances, MemoryStreams
from lambdas.adapters.ports import RecordChanged
from lambdas.breaker_events import BreakerDependencies
from lambdas.core.decisions import InstanceDescription
from lambdas.core.on_demand_fallback import GroupDescription
from lambdas.environment import CapacityEnvironment
from lambdas.launch_events import LaunchDependencies, handle_check, handle_launch_event
from lambdas.orphan_check import OrphanDependencies
from node_agent.contract.capacity import LAUNCH_FAILED_EVENT, LAUNCH_SUCCEEDED_EVENT, SCHEDULED_EVENT, CapacityRecord
from node_agent.contract.errors import ConfigurationError
from node_agent.contract.timestamps import format_instant
from tests.unit.lambdas.test_handlers import Context

GROUP = "synkti-fleet"
SPOT = "i-0123456789abcdef0"
AT = 1_795_514_400.0
NO_SPOT = "Could not launch Spot Instances. UnfulfillableCapacity - Unable to fulfill capacity"


def event(kind: str, event_id: str = "e-1", at: float = AT, **detail: str) -> dict[str, Any]:
    return {
        "id": event_id,
        "detail-type": kind,
        "source": "aws.autoscaling",
        "time": format_instant(at),
        "detail": {"AutoScalingGroupName": GROUP, "StatusMessage": NO_SPOT, "EC2InstanceId": SPOT, **detail},
    }


@pytest.fixture
def adapters(table: Any, monkeypatch: pytest.MonkeyPatch) -> LaunchDependencies:
    for name, value in (("SYNKTI_GROUP", GROUP), ("SYNKTI_ON_DEMAND_BASE", "0"), ("SYNKTI_ON_DEMAND_LIMIT", "2")):
        monkeypatch.setenv(name, value)
    return LaunchDependencies(
        CapacityEnvironment("synkti", "synkti-records", GROUP, 0, 2),
        MemoryGroups({GROUP: GroupDescription(GROUP, 0, 3, 2)}),
        MemoryInstances({SPOT: InstanceDescription(SPOT, "us-east-1a", "g5.xlarge", {})}, frozenset({SPOT})),
        DynamoCapacity(table),
        lambda: AT + 2,
    )


@pytest.fixture
def handler(adapters: LaunchDependencies, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = importlib.reload(importlib.import_module("lambdas.handlers.launch_finished"))
    monkeypatch.setattr(module, "_dependencies", lambda: adapters)
    return module


def base(adapters: LaunchDependencies) -> int:
    found = adapters.groups.find(GROUP)
    assert found is not None
    return found.on_demand_base


def test_the_base_is_raised_without_spot_capacity_and_lowered_with_it(
    handler: ModuleType, adapters: LaunchDependencies
) -> None:
    failed = event(LAUNCH_FAILED_EVENT)
    first = handler.handler(failed, Context())
    assert first == {"action": "raise", "reason": "UnfulfillableCapacity: 1 of 3 missing"}
    assert base(adapters) == 1
    assert handler.handler(failed, Context()) == first  # answered from its row
    succeeded = event(LAUNCH_SUCCEEDED_EVENT, "e-2", AT + 60)
    assert handler.handler(succeeded, Context())["action"] == "lower"
    assert base(adapters) == 0
    record = adapters.records.find(GROUP)
    assert record is not None
    assert [change.base for change in record.history] == [1, 0]


@pytest.mark.parametrize(
    ("raw_event", "reason"),
    [
        (event(LAUNCH_FAILED_EVENT, AutoScalingGroupName="somebody-elses"), "another group"),
        (event("EC2 Instance Terminate Successful"), "not a launch event"),
        (event(LAUNCH_FAILED_EVENT, StatusMessage="You have requested more vCPU"), "not for lack of spot capacity"),
        (event(LAUNCH_SUCCEEDED_EVENT), "the base is not raised"),
    ],
)
def test_an_event_that_is_not_about_spot_in_this_group_changes_nothing(
    raw_event: dict[str, Any], reason: str, handler: ModuleType, adapters: LaunchDependencies
) -> None:
    assert handler.handler(raw_event, Context()) == {"action": "ignore", "reason": reason}
    assert (base(adapters), adapters.records.find(GROUP)) == (0, None)


def test_a_malformed_event_fails_the_invocation(handler: ModuleType) -> None:
    with pytest.raises(ValueError, match="StatusMessage"):
        handler.handler(event(LAUNCH_FAILED_EVENT, StatusMessage=""), Context())


def test_a_throttled_call_fails_the_invocation_and_its_retry_finishes_it(
    handler: ModuleType, adapters: LaunchDependencies, monkeypatch: pytest.MonkeyPatch
) -> None:
    def throttled(*_: object) -> None:
        raise ClientError({"Error": {"Code": "Throttling"}}, "UpdateAutoScalingGroup")

    raw_event = event(LAUNCH_FAILED_EVENT)
    with monkeypatch.context() as patch:
        patch.setattr(adapters.groups, "set_on_demand_base", throttled)
        with pytest.raises(ClientError):
            handler.handler(raw_event, Context())
    assert base(adapters) == 0
    assert handler.handler(raw_event, Context()) == {"action": "raise", "reason": "completes an earlier decision"}
    assert base(adapters) == 1


def race(adapters: LaunchDependencies, monkeypatch: pytest.MonkeyPatch, losses: int) -> None:
    """The next so many writes are lost to somebody else."""
    real, left = adapters.records.write, [None] * losses

    def write(record: CapacityRecord) -> None:
        if left:
            left.pop()
            raise RecordChanged
        real(record)

    monkeypatch.setattr(adapters.records, "write", write)


def test_a_conflicting_write_is_decided_again(adapters: LaunchDependencies, monkeypatch: pytest.MonkeyPatch) -> None:
    race(adapters, monkeypatch, 2)
    assert handle_launch_event(event(LAUNCH_FAILED_EVENT), adapters)["action"] == "raise"
    assert base(adapters) == 1


def test_an_endless_conflict_fails_the_invocation_before_the_group_changes(
    adapters: LaunchDependencies, monkeypatch: pytest.MonkeyPatch
) -> None:
    race(adapters, monkeypatch, 3)
    with pytest.raises(RecordChanged, match="3 times"):
        handle_launch_event(event(LAUNCH_FAILED_EVENT), adapters)
    assert base(adapters) == 0


def test_the_adapters_are_built_from_the_environment(
    adapters: LaunchDependencies, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = launch_events.from_aws(lambda: AT)
    assert made.environment == adapters.environment
    assert made.groups.find(GROUP) is None
    monkeypatch.setenv("SYNKTI_ON_DEMAND_LIMIT", "many")
    with pytest.raises(ConfigurationError, match="SYNKTI_ON_DEMAND_LIMIT"):
        launch_events.from_aws(lambda: AT)
    monkeypatch.delenv("SYNKTI_GROUP")
    with pytest.raises(ConfigurationError, match="SYNKTI_GROUP"):
        launch_events.from_aws(lambda: AT)


def test_a_concurrent_write_between_read_and_write_is_not_lost(
    adapters: LaunchDependencies, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, others = adapters.records.find, [event(LAUNCH_FAILED_EVENT, "e-other")]

    def find(group: str) -> CapacityRecord | None:
        read = real(group)
        if others:
            raw_event = others.pop()
            assert handle_launch_event(raw_event, adapters)["action"] == "raise"
        return read

    monkeypatch.setattr(adapters.records, "find", find)
    result = handle_launch_event(event(LAUNCH_FAILED_EVENT, "e-1"), adapters)
    assert result["reason"] == "older than the last change"  # decided again, on the other one's record
    record = real(GROUP)
    assert record is not None
    assert (record.event_id, record.version, record.base) == ("e-other", 1, base(adapters))


def test_metrics_name_their_cluster(
    adapters: LaunchDependencies, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two clusters of an account publish the same metrics: an alarm of one must not count the events of the other."""
    importlib.reload(importlib.import_module("lambdas.node_events"))
    importlib.reload(launch_events)
    module = importlib.reload(importlib.import_module("lambdas.handlers.launch_finished"))
    monkeypatch.setattr(module, "_dependencies", lambda: adapters)
    module.handler(event(LAUNCH_FAILED_EVENT), Context())
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines() if '"_aws"' in line]
    assert lines
    for line in lines:
        assert line["cluster"] == "synkti"
        (metric,) = line["_aws"]["CloudWatchMetrics"]
        assert [set(dimensions) for dimensions in metric["Dimensions"]] == [{"service", "cluster"}]


def test_the_schedule_lowers_the_base_of_a_complete_group(
    adapters: LaunchDependencies, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = importlib.reload(importlib.import_module("lambdas.handlers.fleet_checked"))
    handle_launch_event(event(LAUNCH_FAILED_EVENT), adapters)
    groups = MemoryGroups({GROUP: GroupDescription(GROUP, base(adapters), 3, 3)})
    complete = LaunchDependencies(
        adapters.environment,
        groups,
        adapters.instances,
        adapters.records,
        lambda: AT + 1_900,
    )
    breaker = BreakerDependencies(adapters.environment, groups, adapters.instances, MemoryBreaker(), complete.clock)
    orphans = OrphanDependencies(MemoryStreams(), complete.clock)
    monkeypatch.setattr(module, "_dependencies", lambda: (complete, breaker, orphans))
    check = event(SCHEDULED_EVENT, "s-1", AT + 1_900)
    lowered = module.handler(check, Context())
    assert lowered == {
        "launches": {"action": "ignore", "reason": "the breaker is closed"},
        "base": {"action": "lower", "reason": "no spot launch has failed for 30 minutes"},
        "streams": {"action": "count", "reason": "0 streams are orphaned for more than 300 s"},
    }
    assert base(complete) == 0
    assert module.handler(check, Context()) == lowered
    assert module.handler(event(LAUNCH_FAILED_EVENT, "e-9"), Context())["base"]["reason"] == "not a scheduled event"


def test_a_check_of_a_quiet_fleet_publishes_the_metrics_that_an_estimate_counts(
    adapters: LaunchDependencies, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A custom metric is billed for each hour in which it has a value, and this is every five minutes."""
    importlib.reload(importlib.import_module("lambdas.node_events"))
    importlib.reload(launch_events)
    importlib.reload(importlib.import_module("lambdas.breaker_events"))
    importlib.reload(importlib.import_module("lambdas.orphan_check"))
    module = importlib.reload(importlib.import_module("lambdas.handlers.fleet_checked"))
    groups = MemoryGroups({GROUP: GroupDescription(GROUP, 0, 3, 3)})
    quiet = LaunchDependencies(adapters.environment, groups, adapters.instances, adapters.records, lambda: AT)
    breaker = BreakerDependencies(adapters.environment, groups, adapters.instances, MemoryBreaker(), quiet.clock)
    orphans = OrphanDependencies(MemoryStreams(), quiet.clock)
    monkeypatch.setattr(module, "_dependencies", lambda: (quiet, breaker, orphans))
    module.handler(event(SCHEDULED_EVENT, "s-1"), Context())
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines() if '"_aws"' in line]
    published = {each["Name"] for line in lines for each in line["_aws"]["CloudWatchMetrics"][0]["Metrics"]}
    of_nodes = {"InFlightRequests"}
    assert len(published | of_nodes) == STEADY_METRICS


def test_a_check_that_loses_every_race_fails(adapters: LaunchDependencies, monkeypatch: pytest.MonkeyPatch) -> None:
    adapters.groups.set_on_demand_base(GROUP, 2)
    race(adapters, monkeypatch, 3)
    with pytest.raises(RecordChanged, match="3 times"):
        handle_check(event(SCHEDULED_EVENT), adapters)
    assert base(adapters) == 2
