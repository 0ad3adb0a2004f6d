"""Events of one node in any order, some of them more than once, hours late: the record ends the same."""

from __future__ import annotations

from typing import Any

import pytest
from botocore.exceptions import ClientError
from hypothesis import given
from hypothesis import strategies as st

from lambdas.adapters.memory import MemoryInstances, MemoryRecords, MemoryStreams
from lambdas.core.decisions import InstanceDescription
from lambdas.environment import Environment
from lambdas.node_events import Dependencies, handle_node_event
from node_agent.contract.aws_events import (
    INTERRUPTION_EVENT,
    REBALANCE_EVENT,
    STATE_CHANGE_EVENT,
    Ec2Event,
    RebalanceRecommendation,
    SpotInterruption,
    StateChange,
)
from node_agent.contract.states import NodeState
from node_agent.contract.table_schema import NodeRecord
from node_agent.contract.tags import NodeTags, decode_tags
from node_agent.contract.timestamps import format_instant

NODE = "i-0123456789abcdef0"
AT = 1_795_514_400.0
Delivered = tuple[str, type[Ec2Event], dict[str, str], float]
STORY: list[Delivered] = [
    (STATE_CHANGE_EVENT, StateChange, {"state": "running"}, 0),
    (REBALANCE_EVENT, RebalanceRecommendation, {}, 600),
    (INTERRUPTION_EVENT, SpotInterruption, {"instance-action": "terminate"}, 700),
    (STATE_CHANGE_EVENT, StateChange, {"state": "shutting-down"}, 820),
    (STATE_CHANGE_EVENT, StateChange, {"state": "terminated"}, 830),
]
STEPS = {"rebalance-recommended", "interruption-notice", "shutting-down", "terminated"}


def adapters(now: float, *, recorded: bool) -> Dependencies:
    seen = InstanceDescription(NODE, "us-east-1a", "g5.xlarge", NodeTags("synkti", NodeState.READY).encode())
    records = MemoryRecords()
    if recorded:  # by the node itself, before anything happened to it
        records.records[NODE] = NodeRecord(NODE, "us-east-1a", "g5.xlarge", NodeState.READY, int(AT - 60) * 1000, 9)
    return Dependencies(
        Environment("synkti", "t"), MemoryInstances({NODE: seen}), records, MemoryStreams(), lambda: now
    )


def raw(number: int, delivered: Delivered) -> dict[str, Any]:
    kind, _, detail, after = delivered
    return {
        "id": f"e-{number}",
        "detail-type": kind,
        "source": "aws.ec2",
        "time": format_instant(AT + after),
        "detail": {"instance-id": NODE, **detail},
    }


orders = st.lists(st.sampled_from(range(len(STORY))), max_size=12).map(lambda more: [*range(len(STORY)), *more])


@given(orders.flatmap(st.permutations), st.booleans(), st.floats(0, 7200))
def test_the_final_state_does_not_depend_on_the_order_of_events(
    order: list[int], recorded: bool, late_s: float
) -> None:
    held = adapters(AT + 900 + late_s, recorded=recorded)
    highest = 0
    for number in order:
        handle_node_event(raw(number, STORY[number]), STORY[number][1], held)
        record, instance = held.records.find(NODE), held.instances.find(NODE)
        assert record is None or record.state.rank >= highest, "a state moved back"
        highest = record.state.rank if record else 0
        tags = decode_tags(instance.tags) if instance else None
        assert tags is not None
        assert record is None or tags.state is record.state
    record = held.records.find(NODE)
    assert record is not None
    assert record.state is NodeState.GONE
    assert {step.step for step in record.timeline.values()} == STEPS
    assert {round(step.at - AT) for step in record.timeline.values()} == {600, 700, 820, 830}
    assert held.records.recent_interruptions("us-east-1a", "g5.xlarge") == (round((AT + 700) * 1000),)


KINDS = [(kind, expected) for kind, expected, _, _ in STORY[1:4]]


@pytest.mark.parametrize(("kind", "expected"), KINDS)
@pytest.mark.parametrize(
    "broken",
    [
        {"detail": None},
        {"detail": {}},
        {"detail": {"instance-id": "arn:aws:ec2:us-east-2a:instance/i-1"}},
        {"time": None},
        {"time": "24 November"},
        {"id": 7},
    ],
)
def test_a_malformed_event_of_any_kind_fails(kind: str, expected: type[Ec2Event], broken: dict[str, Any]) -> None:
    detail = {"instance-id": NODE, "state": "terminated", "instance-action": "terminate"}
    event = {"id": "e", "detail-type": kind, "time": format_instant(AT), "detail": detail, **broken}
    held = adapters(AT, recorded=True)
    with pytest.raises(ValueError, match=r"expected|instance|missing|instant|Invalid"):
        handle_node_event(event, expected, held)
    record = held.records.find(NODE)
    assert record is not None
    assert record.timeline == {}


@pytest.mark.parametrize("refused", ["find", "tag"])
@pytest.mark.parametrize("delivered", STORY[1:4])
def test_a_throttled_call_fails_and_the_retry_finishes(
    delivered: Delivered, refused: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = adapters(AT + 900, recorded=True)

    def throttled(*_: object) -> None:
        raise ClientError({"Error": {"Code": "RequestLimitExceeded"}}, "DescribeInstances")

    with monkeypatch.context() as patch:
        patch.setattr(held.instances, refused, throttled)
        with pytest.raises(ClientError):
            handle_node_event(raw(0, delivered), delivered[1], held)
    handle_node_event(raw(0, delivered), delivered[1], held)
    record, instance = held.records.find(NODE), held.instances.find(NODE)
    assert record is not None
    assert instance is not None
    assert len(record.timeline) == 1
    tags = decode_tags(instance.tags)
    assert tags is not None
    assert tags.state is record.state
