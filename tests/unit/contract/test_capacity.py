"""Events of Auto Scaling's launches, as its documentation shows them, and the record of what was done about them."""

from __future__ import annotations

from typing import Any

import pytest

from node_agent.contract.capacity import (
    CapacityChange,
    CapacityRecord,
    LaunchFailed,
    LaunchSucceeded,
    capacity_from_item,
    parse_launch,
)

FAILED: dict[str, Any] = {
    "version": "0",
    "id": "12345678-1234-1234-1234-123456789012",
    "detail-type": "EC2 Instance Launch Unsuccessful",
    "source": "aws.autoscaling",
    "account": "123456789012",
    "time": "2026-11-24T10:00:00Z",
    "region": "us-west-2",
    "resources": ["auto-scaling-group-arn"],
    "detail": {
        "StatusCode": "Failed",
        "AutoScalingGroupName": "synkti-fleet",
        "ActivityId": "87654321-4321-4321-4321-210987654321",
        "Details": {"Availability Zone": "us-west-2b", "Subnet ID": "subnet-12345678"},
        "StatusMessage": "Could not launch Spot Instances. UnfulfillableCapacity - Unable to fulfill capacity",
        "EC2InstanceId": "",
        "Cause": "description-text",
    },
}
SUCCEEDED = {
    **FAILED,
    "detail-type": "EC2 Instance Launch Successful",
    "detail": {**FAILED["detail"], "StatusMessage": "", "EC2InstanceId": "i-0123456789abcdef0"},
}
AT = 1795514400.0


def test_both_events_are_read() -> None:
    assert parse_launch(FAILED) == LaunchFailed(FAILED["id"], "synkti-fleet", AT, FAILED["detail"]["StatusMessage"])
    assert parse_launch(SUCCEEDED) == LaunchSucceeded(FAILED["id"], "synkti-fleet", AT, "i-0123456789abcdef0")


def test_another_kind_is_none() -> None:
    assert parse_launch({**FAILED, "detail-type": "EC2 Instance Terminate Successful"}) is None
    assert parse_launch({}) is None


@pytest.mark.parametrize(
    ("event", "missing"),
    [
        ({**FAILED, "detail": None}, "object"),
        ({**FAILED, "id": ""}, "'id'"),
        ({**FAILED, "time": "yesterday"}, "yesterday"),
        ({**FAILED, "detail": {**FAILED["detail"], "AutoScalingGroupName": 7}}, "AutoScalingGroupName"),
        ({**FAILED, "detail": {**FAILED["detail"], "StatusMessage": ""}}, "StatusMessage"),
        ({**SUCCEEDED, "detail": {**SUCCEEDED["detail"], "EC2InstanceId": ""}}, "EC2InstanceId"),
    ],
)
def test_an_event_that_lacks_a_field_is_malformed(event: dict[str, Any], missing: str) -> None:
    with pytest.raises(ValueError, match=missing):
        parse_launch(event)


def test_a_record_round_trips_through_its_item() -> None:
    record = CapacityRecord("synkti-fleet", 2, 1.5, 2.25, "e-1", 7, 99, (CapacityChange(2, 2.25, "why"),))
    item = record.to_item()
    assert (item["pk"], item["sk"]) == ("group#synkti-fleet", "capacity")
    assert capacity_from_item(item) == record
