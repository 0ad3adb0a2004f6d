"""Makes every call of the Lambdas: each handler with its events, Powertools' idempotency included."""

from __future__ import annotations

import importlib
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import boto3
import pytest
from boto3.dynamodb.types import TypeSerializer
from botocore.exceptions import ClientError

from checks.assemblies import REGION
from lambdas.adapters.dynamodb import DynamoRecords
from node_agent.contract.aws_events import INTERRUPTION_EVENT, REBALANCE_EVENT, STATE_CHANGE_EVENT
from node_agent.contract.capacity import (
    LAUNCH_FAILED_EVENT,
    LAUNCH_SUCCEEDED_EVENT,
    SCHEDULED_EVENT,
    CapacityRecord,
    group_key,
)
from node_agent.contract.launch_breaker import GAVE_UP_EVENT, BreakerRecord, GiveUp, breaker_key
from node_agent.contract.open_streams import open_streams_key
from node_agent.contract.states import NodeState
from node_agent.contract.table_schema import NodeRecord, node_key
from node_agent.contract.tags import VERSION_TAG, NodeTags
from node_agent.contract.timestamps import format_instant
from tests.aws_calls.agent_calls import CLUSTER, GROUP, NODE, OPEN_STREAMS, TABLE
from tests.aws_calls.recording import Recorder
from tests.unit.lambdas.test_handlers import Context

NOW = time.time()
EXPIRES = int(NOW) + 600_000
NO_SPOT = "Could not launch Spot Instances. UnfulfillableCapacity - Unable to fulfill capacity"
OLD_VERSION, VERSION = "v1", "v2"
_NODE = NodeRecord(NODE, "us-east-1a", "g5.xlarge", NodeState.READY, 7, EXPIRES)
_CAPACITY = CapacityRecord(GROUP, 2, NOW - 7_200, NOW - 7_200, "e-0", 3, EXPIRES)
_TWO = tuple(GiveUp(f"i-{number}", NOW - 60, "no") for number in (1, 2))
_COUNTED = BreakerRecord(GROUP, VERSION, _TWO, 0.0, "e-0", 2, EXPIRES)
_OPEN = BreakerRecord(GROUP, VERSION, _TWO, NOW - 600, "e-0", 3, EXPIRES)
_OPEN_FOR_OLD = BreakerRecord(GROUP, OLD_VERSION, _TWO, NOW - 600, "e-0", 3, EXPIRES)

Story = tuple[str, dict[str, Any], Mapping[str, Any] | None, dict[str, str]]
"""A handler, its event, the record in the table, and AWS's refusals."""

_ids = iter(range(1_000))


def event(kind: str, **detail: Any) -> dict[str, Any]:
    """Make an event as EventBridge delivers it."""
    return {
        "id": f"e-{next(_ids) + 1}",
        "detail-type": kind,
        "source": "aws.ec2",
        "time": format_instant(NOW),
        "detail": {"instance-id": NODE, "AutoScalingGroupName": GROUP, "EC2InstanceId": NODE, **detail},
    }


def stories() -> list[Story]:
    """Return events that lead every handler through each of its calls."""
    warned = ("node_interrupted", event(INTERRUPTION_EVENT, **{"instance-action": "terminate"}))
    at_risk = ("node_rebalance_recommended", event(REBALANCE_EVENT))
    ended = ("node_state_changed", event(STATE_CHANGE_EVENT, state="terminated"))
    launched, failed = event(LAUNCH_SUCCEEDED_EVENT), event(LAUNCH_FAILED_EVENT, StatusMessage=NO_SPOT)
    gave_up = event(GAVE_UP_EVENT, Reason="the engine cannot start")
    refused = {"DescribeInstances": "RequestLimitExceeded", "DescribeAutoScalingGroups": "RequestLimitExceeded"}
    of_nodes: list[Story] = [
        (*handled, record, errors)
        for handled in (warned, at_risk, ended)
        for record, errors in ((None, {}), (_NODE.to_item(), {}), (OPEN_STREAMS.to_item(), {}), (None, refused))
    ]
    return [
        *of_nodes,
        ("launch_finished", failed, None, {}),
        ("launch_finished", failed, _CAPACITY.to_item(), {}),
        ("launch_finished", launched, _CAPACITY.to_item(), {}),
        ("launch_finished", failed, None, refused),
        ("fleet_checked", event(SCHEDULED_EVENT), _CAPACITY.to_item(), {}),
        ("fleet_checked", event(SCHEDULED_EVENT), _OPEN_FOR_OLD.to_item(), {}),
        ("fleet_checked", event(SCHEDULED_EVENT), None, refused),
        ("node_gave_up", gave_up, None, {}),
        ("node_gave_up", gave_up, _COUNTED.to_item(), {}),
        ("node_gave_up", {**launched, "time": format_instant(NOW - 1)}, _OPEN.to_item(), {}),
        ("node_gave_up", gave_up, None, refused),
    ]


def call_as_lambdas(recorder: Recorder) -> dict[str, list[int]]:
    """Play every story; return the positions of each handler's calls among those of the recorder."""
    positions: dict[str, list[int]] = {}
    with pytest.MonkeyPatch.context() as patch:
        _set_environment(patch)
        for name, raw, item, errors in stories():
            before = len(recorder.calls)
            module = importlib.reload(importlib.import_module(f"lambdas.handlers.{name}"))
            suspended = item is not None and bool(item.get("opened_at_ms"))
            answers: dict[str, Any] = {
                "GetItem": _reader(item),
                "PutItem": {},
                "UpdateItem": {},
                "DeleteItem": {},
                "DescribeInstances": {"Reservations": [{"Instances": [_instance()]}]},
                "DescribeAutoScalingGroups": {"AutoScalingGroups": [_group(suspended=suspended)]},
            }
            with recorder.answering(**answers), recorder.refusing(**errors):
                _invoke(module.handler, raw, fails=bool(errors))
            positions.setdefault(name, []).extend(range(before, len(recorder.calls)))
        # No handler reads this yet.
        DynamoRecords(boto3.resource("dynamodb").Table(TABLE)).recent_interruptions("us-east-1a", "g5.xlarge")
        positions["node_interrupted"].append(len(recorder.calls) - 1)
    return positions


def _invoke(handler: Callable[[dict[str, Any], Any], Any], raw: dict[str, Any], *, fails: bool) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # Powertools warns of an invocation that failed before a metric
        if fails:
            with pytest.raises(ClientError):
                handler(raw, Context())
        else:
            handler(raw, Context())


def _set_environment(patch: pytest.MonkeyPatch) -> None:
    values = {
        "AWS_REGION": REGION,
        "AWS_DEFAULT_REGION": REGION,
        "SYNKTI_CLUSTER": CLUSTER,
        "SYNKTI_TABLE": TABLE,
        "SYNKTI_GROUP": GROUP,
        "SYNKTI_ON_DEMAND_BASE": "0",
        "SYNKTI_ON_DEMAND_LIMIT": "2",
        "POWERTOOLS_METRICS_NAMESPACE": "Synkti",
    }
    for name, value in values.items():
        patch.setenv(name, value)


def _reader(item: Mapping[str, Any] | None) -> Callable[[Mapping[str, Any]], Mapping[str, Any]]:
    """Return what answers GetItem: the item for its own key, and nothing for another."""
    serialize = TypeSerializer().serialize

    def read(params: Mapping[str, Any]) -> Mapping[str, Any]:
        if item is None or {name: value["S"] for name, value in params["Key"].items()} != _key(item):
            return {}
        return {"Item": {name: serialize(value) for name, value in item.items()}}

    return read


def _key(item: Mapping[str, Any]) -> dict[str, str]:
    every = (node_key(NODE), group_key(GROUP), breaker_key(GROUP), open_streams_key(NODE))
    return next(key for key in every if key.items() <= item.items())


def _instance() -> dict[str, Any]:
    tags = {**NodeTags(CLUSTER, NodeState.READY).encode(), VERSION_TAG: VERSION}
    return {
        "InstanceId": NODE,
        "InstanceType": "g5.xlarge",
        "InstanceLifecycle": "spot",
        "Placement": {"AvailabilityZone": "us-east-1a"},
        "Tags": [{"Key": key, "Value": value} for key, value in tags.items()],
    }


def _group(*, suspended: bool) -> dict[str, Any]:
    return {
        "AutoScalingGroupName": GROUP,
        "DesiredCapacity": 3,
        "Instances": [{"LifecycleState": "InService"}] * 2,
        "MixedInstancesPolicy": {"InstancesDistribution": {"OnDemandBaseCapacity": 1}},
        "Tags": [{"Key": VERSION_TAG, "Value": VERSION}],
        "SuspendedProcesses": [{"ProcessName": "Launch"}] if suspended else [],
    }
