"""The contract: tags, instants, notices and records, each read back from what was written."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node_agent.contract.aws_events import (
    InterruptionNotice,
    RebalanceRecommendation,
    SpotInterruption,
    StateChange,
    parse_event,
    parse_instance_action,
    parse_rebalance,
)
from node_agent.contract.names import (
    auto_scaling_group_name,
    checkpoints_bucket_name,
    is_cluster_name,
    models_bucket_name,
)
from node_agent.contract.states import NodeState
from node_agent.contract.table_schema import NodeRecord, TimelineStep, record_from_item
from node_agent.contract.tags import NodeTags, decode_tags
from node_agent.contract.timestamps import format_instant, parse_instant


@given(st.integers(min_value=0, max_value=4_000_000_000_000))
def test_a_time_round_trips_to_the_millisecond(at_ms: int) -> None:
    assert round(parse_instant(format_instant(at_ms / 1000)) * 1000) == at_ms


@pytest.mark.parametrize("text", ["", "yesterday", "2026-11-23", "2026-11-23T10:00:00"])
def test_a_time_without_an_offset_is_none(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse_instant(text)


def test_states_only_move_forward_in_the_order_of_their_ranks() -> None:
    assert [state.rank for state in NodeState] == [0, 1, 2, 3, 4]
    assert [state for state in NodeState if state.takes_requests] == [NodeState.READY, NodeState.AT_RISK]


@pytest.mark.parametrize(
    ("name", "ok"),
    [("synkti", True), ("a1", True), ("a", False), ("Synkti", False), ("a-", False), ("1a", False), ("x" * 21, False)],
)
def test_cluster_names_fit_in_a_bucket_name(name: str, ok: bool) -> None:
    assert is_cluster_name(name) is ok
    if ok:
        for bucket in (models_bucket_name, checkpoints_bucket_name):
            assert len(bucket(name, "123456789012", "ap-southeast-2")) <= 63
        assert auto_scaling_group_name(name).startswith(name)


@given(
    st.builds(
        NodeTags,
        cluster=st.just("synkti"),
        state=st.sampled_from(NodeState),
        address=st.none() | st.just("127.0.0.2:8001"),
        deadline=st.none() | st.integers(min_value=0, max_value=4_000_000_000).map(float),
        public_key=st.none() | st.just("AZaz09-_" * 5 + "AAAA"),
    )
)
def test_tags_round_trip(tags: NodeTags) -> None:
    assert decode_tags(tags.encode()) == tags


def test_tags_that_a_person_edited_are_read_in_part() -> None:
    tags = decode_tags(
        {
            "SynktiCluster": "c1", "SynktiRole": "worker", "SynktiState": "happy", "SynktiDeadline": "soon",
            "SynktiKey": "a key",
        }
    )  # fmt: skip
    assert tags == NodeTags("c1", None)


@pytest.mark.parametrize("tags", [{}, {"SynktiCluster": "c1"}, {"SynktiRole": "worker"}, {"Name": "x"}])
def test_instances_of_others_are_no_nodes(tags: dict[str, str]) -> None:
    assert decode_tags(tags) is None


def event(kind: str, **detail: Any) -> dict[str, Any]:
    return {
        "id": "e-1",
        "detail-type": kind,
        "source": "aws.ec2",
        "time": "2026-11-23T10:00:00Z",
        "resources": ["arn:aws:ec2:us-east-2a:instance/i-1234567890abcdef0"],
        "detail": {"instance-id": "i-1234567890abcdef0", **detail},
    }


AT = parse_instant("2026-11-23T10:00:00Z")


def test_each_kind_of_event_is_read() -> None:
    node = "i-1234567890abcdef0"
    assert parse_event(
        event("EC2 Spot Instance Interruption Warning", **{"instance-action": "terminate"})
    ) == SpotInterruption("e-1", node, AT, "terminate")
    assert parse_event(event("EC2 Instance Rebalance Recommendation")) == RebalanceRecommendation("e-1", node, AT)
    assert parse_event(event("EC2 Instance State-change Notification", state="stopped")) == StateChange(
        "e-1", node, AT, "stopped"
    )


def test_an_unknown_kind_is_nothing() -> None:
    assert parse_event(event("EC2 Instance Became Sentient")) is None
    assert parse_event({}) is None


@pytest.mark.parametrize(
    "broken",
    [
        {"detail": None},
        {"detail": {"instance-id": "vol-1", "state": "x"}},
        {"detail": {"state": "stopped"}},
        {"time": "noon"},
        {"id": ""},
    ],
)
def test_a_malformed_event_of_a_known_kind_is_an_error(broken: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse_event({**event("EC2 Instance State-change Notification", state="stopped"), **broken})


def test_notices_of_imds_are_read() -> None:
    assert parse_instance_action('{"action":"terminate","time":"2026-11-23T10:00:00Z"}') == InterruptionNotice(
        AT, "terminate"
    )
    assert parse_rebalance('{"noticeTime":"2026-11-23T10:00:00Z"}') == AT
    for parse in (parse_instance_action, parse_rebalance):
        for body in ("", "[]", "{}", '{"action":1,"time":"x","noticeTime":""}'):
            with pytest.raises(ValueError, match=r".+"):
                parse(body)


def test_a_record_round_trips_with_its_steps_in_order() -> None:
    late, early = TimelineStep("drained", "agent", 20.5), TimelineStep("interruption-notice", "eventbridge", 10.25)
    record = NodeRecord("i-1", "us-east-1a", "g5.xlarge", NodeState.DRAINING, 7, 99, {late.key: late, early.key: early})
    item = record.to_item()
    assert json.loads(json.dumps(item))["state_rank"] == 3
    assert record_from_item(item) == record
    assert record.story == (early, late)
