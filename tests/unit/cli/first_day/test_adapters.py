"""Each call to AWS has the form that AWS accepts, and each answer is read: recorded responses, checked by botocore."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from botocore.exceptions import ClientError

from cli.adapters.alarms import Alarms
from cli.adapters.drills import EventDrills, Interruptions
from cli.adapters.group_probe import GroupProbe
from cli.adapters.records import Records
from cli.core.first_day.alarm import Alarm
from cli.core.first_day.capacity import GroupCapacity
from cli.errors import Failed, NotFound
from node_agent.contract.capacity import CapacityChange, CapacityRecord, parse_launch
from node_agent.contract.drain_record import DrainRecord, DrainStep
from tests.unit.cli.first_day.recorded import ANY, recorded

NODE = "i-0123456789abcdef0"
T0 = datetime(2026, 11, 30, 10, 0, tzinfo=UTC)
TOPIC = "arn:aws:sns:us-east-1:123456789012:t"


def group(**changes: Any) -> dict[str, Any]:
    whole = {
        "AutoScalingGroupName": "synkti-fleet",
        "MinSize": 0,
        "MaxSize": 6,
        "DesiredCapacity": 3,
        "DefaultCooldown": 300,
        "AvailabilityZones": ["us-east-1a"],
        "HealthCheckType": "EC2",
        "CreatedTime": T0,
        "Instances": [
            {
                "InstanceId": NODE,
                "AvailabilityZone": "us-east-1a",
                "LifecycleState": state,
                "HealthStatus": "Healthy",
                "ProtectedFromScaleIn": False,
            }
            for state in ("InService", "Pending:Wait", "Terminating:Wait")
        ],
        "MixedInstancesPolicy": {"InstancesDistribution": {"OnDemandBaseCapacity": 1}},
    }
    return {"AutoScalingGroups": [whole | changes]}


NAMED = {"AutoScalingGroupNames": ["synkti-fleet"]}
OWN = {"AutoScalingGroupName": "synkti-fleet"}


def test_the_capacity_of_a_group() -> None:
    calls = [("describe_auto_scaling_groups", NAMED, group())] * 2
    with recorded("autoscaling", *calls) as client:
        assert GroupProbe(client, "synkti-fleet").capacity() == GroupCapacity(3, 6, 2, 1, launches_suspended=False)


def test_a_group_that_is_gone() -> None:
    with (
        recorded("autoscaling", ("describe_auto_scaling_groups", NAMED, {"AutoScalingGroups": []})) as client,
        pytest.raises(NotFound),
    ):
        GroupProbe(client, "synkti-fleet").capacity()


def test_a_group_is_changed_in_one_respect_at_a_time() -> None:
    launch = OWN | {"ScalingProcesses": ["Launch"]}
    base = OWN | {"MixedInstancesPolicy": {"InstancesDistribution": {"OnDemandBaseCapacity": 0}}}
    calls: list[Any] = [
        ("suspend_processes", launch, {}),
        ("set_desired_capacity", OWN | {"DesiredCapacity": 4, "HonorCooldown": False}, {}),
        ("resume_processes", launch, {}),
        ("update_auto_scaling_group", base, {}),
    ]
    with recorded("autoscaling", *calls) as client:
        probe = GroupProbe(client, "synkti-fleet")
        probe.suspend_launches()
        probe.set_desired(4)
        probe.resume_launches()
        probe.set_base(0)


def test_the_lifecycle_of_instances() -> None:
    instance = {
        "InstanceId": NODE,
        "AutoScalingGroupName": "synkti-fleet",
        "AvailabilityZone": "us-east-1a",
        "LifecycleState": "InService",
        "HealthStatus": "HEALTHY",
        "ProtectedFromScaleIn": False,
    }
    hook = {"LifecycleHooks": [{"LifecycleHookName": "drained", "HeartbeatTimeout": 120}]}
    hooks = OWN | {"LifecycleHookNames": ["drained"]}
    calls: list[Any] = [
        (
            "describe_auto_scaling_instances",
            {},
            {"AutoScalingInstances": [instance, instance | {"AutoScalingGroupName": "x"}]},
        ),
        ("describe_auto_scaling_instances", {"InstanceIds": [NODE]}, {"AutoScalingInstances": [instance]}),
        ("describe_auto_scaling_instances", {"InstanceIds": [NODE]}, {"AutoScalingInstances": []}),
        ("describe_lifecycle_hooks", hooks, hook),
        ("describe_lifecycle_hooks", hooks, {"LifecycleHooks": []}),
    ]
    with recorded("autoscaling", *calls) as client:
        probe = GroupProbe(client, "synkti-fleet")
        assert probe.states() == {NODE: "InService"}
        assert (probe.state_of(NODE), probe.state_of(NODE)) == ("InService", "")
        assert (probe.hook_timeout_s("drained"), probe.hook_timeout_s("drained")) == (120.0, None)


def test_an_alarm_is_found_set_and_followed() -> None:
    resource = {
        "ResourceType": "AWS::CloudWatch::Alarm",
        "LogicalResourceId": "NoSpot",
        "PhysicalResourceId": "synkti-events-NoSpot",
        "LastUpdatedTimestamp": T0,
        "ResourceStatus": "CREATE_COMPLETE",
    }
    queue = resource | {"ResourceType": "AWS::SQS::Queue", "PhysicalResourceId": "queue"}
    alarm = {"AlarmName": "synkti-events-NoSpot", "StateValue": "OK", "AlarmActions": [TOPIC]}
    named = {"AlarmNames": ["synkti-events-NoSpot"]}
    history = {"AlarmName": "synkti-events-NoSpot", "HistoryItemType": "Action", "StartDate": T0}
    item = {"AlarmName": "synkti-events-NoSpot", "HistorySummary": f"Successfully executed action {TOPIC}"}
    described = {"MetricAlarms": [alarm]}
    cloudwatch_calls: list[Any] = [
        ("describe_alarms", named, described),
        ("set_alarm_state", {"AlarmName": "synkti-events-NoSpot", "StateValue": "ALARM", "StateReason": ANY}, {}),
        ("describe_alarms", named, {"MetricAlarms": [alarm | {"StateValue": "ALARM"}]}),
        (
            "describe_alarm_history",
            history | {"ScanBy": "TimestampDescending", "MaxRecords": 10},
            {"AlarmHistoryItems": [item]},
        ),
    ]
    subscription = {"SubscriptionArn": "PendingConfirmation", "Endpoint": "ops@example.com"}
    with (
        recorded(
            "cloudformation", ("list_stack_resources", None, {"StackResourceSummaries": [queue, resource]})
        ) as stacks,
        recorded("cloudwatch", *cloudwatch_calls) as cloudwatch,
        recorded("sns", ("list_subscriptions_by_topic", {"TopicArn": TOPIC}, {"Subscriptions": [subscription]})) as sns,
    ):
        alarms = Alarms(cloudwatch, sns, stacks)
        assert alarms.of_stack("synkti-events") == (Alarm("synkti-events-NoSpot", "OK", TOPIC),)
        alarms.set_state("synkti-events-NoSpot", "ALARM")
        assert alarms.state("synkti-events-NoSpot") == "ALARM"
        assert alarms.actions("synkti-events-NoSpot", T0) == [item]
        assert alarms.subscriptions(TOPIC) == [subscription]


def test_a_failed_launch_is_an_event_that_the_lambda_parses() -> None:
    sent: dict[str, Any] = {}

    class Client:
        def put_events(self, Entries: list[dict[str, Any]]) -> dict[str, Any]:  # boto3's name
            sent.update(Entries[0])
            return {"Entries": [{"EventId": "e1"}]}

    at = T0.timestamp()
    assert EventDrills(Client(), "synkti").send_launch_failure("synkti-fleet", "no capacity", at) == "e1"
    event = {
        "id": "e1",
        "detail-type": sent["DetailType"],
        "detail": json.loads(sent["Detail"]),
        "time": T0.isoformat(),
    }
    parsed = parse_launch(event)
    assert parsed is not None
    assert (parsed.group, parsed.at, sent["Source"]) == ("synkti-fleet", at, "synkti.drill")


def test_an_event_that_is_rejected_is_an_error() -> None:
    entry: Any = {"Entries": [dict.fromkeys(("Source", "DetailType", "Detail", "Resources", "Time"), ANY)]}
    rejected = {"FailedEntryCount": 1, "Entries": [{"ErrorCode": "x"}]}
    with (
        recorded("events", ("put_events", entry, rejected)) as events,
        pytest.raises(Failed, match="EventBridge rejected the event: x"),
    ):
        EventDrills(events, "synkti").send_launch_failure("synkti-fleet", "no capacity", T0.timestamp())


def test_an_experiment_is_stopped_only_while_it_runs() -> None:
    def experiment(status: str) -> dict[str, Any]:
        return {"experiment": {"id": "EXP1", "state": {"status": status}}}

    calls: list[Any] = [
        ("get_experiment", {"id": "EXP1"}, experiment("running")),
        ("stop_experiment", {"id": "EXP1"}, {"experiment": {"id": "EXP1"}}),
        ("get_experiment", {"id": "EXP1"}, experiment("completed")),
    ]
    with recorded("fis", *calls) as client:
        interruptions = Interruptions(client, "synkti")
        assert interruptions.stop("EXP1")
        assert not interruptions.stop("EXP1")


def test_an_interruption_is_a_template_of_two_minutes_that_is_deleted_again() -> None:
    template: Any = {"experimentTemplate": {"id": "EXT1"}}
    calls: list[Any] = [
        ("create_experiment_template", None, template),
        ("start_experiment", {"clientToken": "t", "experimentTemplateId": "EXT1"}, {"experiment": {"id": "EXP1"}}),
        ("delete_experiment_template", {"id": "EXT1"}, template),
    ]
    arn = f"arn:aws:ec2:us-east-1:123456789012:instance/{NODE}"
    with recorded("fis", *calls) as client:
        assert Interruptions(client, "synkti").interrupt(arn, "arn:aws:iam::123456789012:role/drills", "t") == "EXP1"
    calls[1:2] = [("start_experiment", None, "AccessDeniedException")]
    with recorded("fis", *calls) as client, pytest.raises(ClientError):
        Interruptions(client, "synkti").interrupt(arn, "arn:aws:iam::123456789012:role/drills", "t")


def typed(value: Any) -> Any:
    """A value in the form of DynamoDB's low-level API."""
    from boto3.dynamodb.types import TypeSerializer  # noqa: PLC0415 # only here

    return TypeSerializer().serialize(value)


def test_the_records_of_the_table_are_read() -> None:
    drain = DrainRecord(NODE, 7, "notice-seen", 1.5, 99, (DrainStep("requested", 1.0),))
    change = CapacityRecord("synkti-fleet", 1, 1.0, 2.0, "e1", 3, 99, (CapacityChange(1, 1.0, "no spot"),))
    timeline = {"timeline": {"x": {"step": "notice-seen", "source": "imds", "at_ms": 1500}}}

    def item(document: dict[str, Any]) -> dict[str, Any]:
        return {key: typed(value) for key, value in document.items()}

    def stored(document: dict[str, Any], **changes: Any) -> Any:
        return {"Items": [item({**document, **changes})]}

    key = {"TableName": "synkti-records", "Key": {"pk": {"S": f"node#{NODE}"}, "sk": {"S": "record"}}}
    calls: list[Any] = [
        ("get_item", key | {"ConsistentRead": True}, {"Item": item(timeline)}),
        ("get_item", key | {"ConsistentRead": True}, {}),
        ("query", None, stored(drain.to_item())),
        ("query", None, {"Items": []}),
        ("query", None, stored(drain.to_item(), deadline_ms="never")),
        ("get_item", None, {"Item": item(change.to_item())}),
        ("get_item", None, {"Item": item({**change.to_item(), "base": "many"})}),
        ("get_item", None, {}),
    ]
    with recorded("dynamodb", *calls) as client:
        records = Records(client, "synkti-records")
        assert records.timeline(NODE)["notice-seen@imds"].at == 1.5
        assert records.timeline(NODE) == {}
        assert [records.drain(NODE) for _ in range(3)] == [drain, None, None]
        assert [records.capacity("synkti-fleet") for _ in range(3)] == [change, None, None]
