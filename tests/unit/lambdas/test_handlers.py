"""The handlers, whole: a raw event in, tags and records out, on moto with Powertools' own idempotency."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from lambdas import node_events
from lambdas.adapters.ports import RecordChanged
from node_agent.contract.aws_events import INTERRUPTION_EVENT, REBALANCE_EVENT, STATE_CHANGE_EVENT, SpotInterruption
from node_agent.contract.errors import ConfigurationError
from node_agent.contract.states import NodeState
from node_agent.contract.table_schema import node_key
from node_agent.contract.tags import NodeTags, decode_tags
from node_agent.contract.timestamps import format_instant

DETAILS: dict[str, tuple[str, dict[str, str], str]] = {
    "node_interrupted": (INTERRUPTION_EVENT, {"instance-action": "terminate"}, "draining"),
    "node_rebalance_recommended": (REBALANCE_EVENT, {}, "at-risk"),
    "node_state_changed": (STATE_CHANGE_EVENT, {"state": "terminated"}, "gone"),
}


@dataclass
class Context:
    """What Lambda hands to a handler."""

    function_name: str = "f"
    memory_limit_in_mb: int = 128
    invoked_function_arn: str = "arn:aws:lambda:us-east-1:123456789012:function:f"
    aws_request_id: str = "r"

    def get_remaining_time_in_millis(self) -> int:
        return 10_000


def event(kind: str, instance_id: str, detail: dict[str, str], event_id: str = "e-1") -> dict[str, Any]:
    return {
        "id": event_id,
        "detail-type": kind,
        "source": "aws.ec2",
        "time": format_instant(time.time()),
        "detail": {"instance-id": instance_id, **detail},
    }


@pytest.fixture
def handler(table: Any) -> Callable[[str], ModuleType]:
    def load(name: str) -> ModuleType:
        module = importlib.import_module(f"lambdas.handlers.{name}")
        return importlib.reload(module)  # its environment is this test's

    return load


@pytest.mark.parametrize("name", DETAILS)
def test_an_event_is_written_into_tags_and_record_once(
    name: str, handler: Callable[[str], ModuleType], table: Any, run_instance: Callable[[dict[str, str]], str]
) -> None:
    kind, detail, state = DETAILS[name]
    node = run_instance(NodeTags("synkti", NodeState.READY).encode())
    module = handler(name)
    raw_event = event(kind, node, detail)
    first = module.handler(raw_event, Context())
    assert first["action"] == "create"
    item = table.get_item(Key=node_key(node))["Item"]
    assert item["state"] == state
    instance = boto3.client("ec2").describe_instances(InstanceIds=[node])["Reservations"][0]["Instances"][0]
    tags = decode_tags({tag["Key"]: tag["Value"] for tag in instance["Tags"]})
    assert tags is not None
    assert tags.state == state
    assert module.handler(raw_event, Context()) == first  # idempotent: answered from the row, not decided again
    again = module.handler(event(kind, node, detail, "e-2"), Context())
    assert again["reason"] == "already recorded"
    assert table.get_item(Key=node_key(node))["Item"] == item


def test_events_of_other_instances_and_unknown_kinds_change_nothing(
    handler: Callable[[str], ModuleType], table: Any, run_instance: Callable[[dict[str, str]], str]
) -> None:
    module = handler("node_interrupted")
    stranger = run_instance({"Name": "a database"})
    for number, (kind, node) in enumerate(
        [
            (INTERRUPTION_EVENT, stranger),
            (INTERRUPTION_EVENT, "i-00000000000000000"),
            ("EC2 Instance Became Sentient", stranger),
            (REBALANCE_EVENT, stranger),
        ]
    ):
        result = module.handler(event(kind, node, {"instance-action": "terminate"}, f"e-{number}"), Context())
        assert result["action"] == "ignore"
    items = table.scan()["Items"]
    assert {item["pk"] for item in items} == {"idempotency"}


def test_a_malformed_event_fails_the_invocation(handler: Callable[[str], ModuleType]) -> None:
    with pytest.raises(ValueError, match="instance-id"):
        handler("node_interrupted").handler(event(INTERRUPTION_EVENT, "", {"instance-action": "terminate"}), Context())


def test_a_failure_of_aws_fails_the_invocation_and_the_retry_succeeds(
    handler: Callable[[str], ModuleType],
    monkeypatch: pytest.MonkeyPatch,
    table: Any,
    run_instance: Callable[[dict[str, str]], str],
) -> None:
    node = run_instance(NodeTags("synkti", NodeState.READY).encode())
    module = handler("node_interrupted")
    throttled = ClientError({"Error": {"Code": "RequestLimitExceeded"}}, "CreateTags")

    def fail(*_: object) -> None:
        raise throttled

    raw_event = event(INTERRUPTION_EVENT, node, {"instance-action": "terminate"})
    with monkeypatch.context() as patch:
        patch.setattr("lambdas.adapters.ec2.Ec2Instances.tag", fail)
        with pytest.raises(ClientError):
            module.handler(raw_event, Context())
    module.handler(raw_event, Context())
    instance = boto3.client("ec2").describe_instances(InstanceIds=[node])["Reservations"][0]["Instances"][0]
    assert {"Key": "SynktiState", "Value": "draining"} in instance["Tags"]


def test_a_conflicting_write_is_decided_again_and_an_endless_conflict_fails(
    table: Any, monkeypatch: pytest.MonkeyPatch, run_instance: Callable[[dict[str, str]], str]
) -> None:
    node = run_instance(NodeTags("synkti", NodeState.READY).encode())
    adapters = node_events.from_aws(time.time)
    raw_event = event(INTERRUPTION_EVENT, node, {"instance-action": "terminate"})
    real, losses = adapters.records.write, [RecordChanged(), RecordChanged()]

    def lose_twice(decision: Any) -> None:
        if losses:
            raise losses.pop()
        real(decision)

    monkeypatch.setattr(adapters.records, "write", lose_twice)
    assert node_events.handle_node_event(raw_event, SpotInterruption, adapters)["action"] == "create"
    losses += [RecordChanged()] * 3
    other = run_instance(NodeTags("synkti", None).encode())
    raw_event = event(INTERRUPTION_EVENT, other, {"instance-action": "terminate"})
    with pytest.raises(RecordChanged, match="3 times"):
        node_events.handle_node_event(raw_event, SpotInterruption, adapters)


def test_a_missing_variable_is_named(monkeypatch: pytest.MonkeyPatch, aws: None) -> None:
    monkeypatch.delenv("SYNKTI_TABLE")
    with pytest.raises(ConfigurationError, match="SYNKTI_TABLE"):
        node_events.from_aws(time.time)
