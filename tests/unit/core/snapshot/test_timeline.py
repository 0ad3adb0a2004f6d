"""The timeline: bounded, and a loss under many streams is one entry."""

from __future__ import annotations

from node_agent.contract.states import NodeState
from node_agent.core.node.status import NodeStatus, Pool
from node_agent.core.snapshot.fleet_changes import NodeChange, NodeChanged
from node_agent.core.snapshot.timeline import MAX_ENTRIES, MAX_PAUSES, MAX_TARGETS, MERGE_WITHIN_S, Timeline

LOST = NodeStatus("i-1", "h:1", "h:2", NodeState.READY, Pool("us-east-1a", "g5.xlarge"), "m", 1)


def test_the_newest_entry_is_first_and_has_the_nodes_pool() -> None:
    timeline = Timeline()
    timeline.add_node_change(NodeChanged(LOST, NodeChange.DEAD, NodeState.READY), 10.0)
    timeline.add_continued(10.5, "i-1", "silence", "i-2", 0.04)
    continued, lost = timeline.to_json()
    assert (lost["number"], lost["kind"], lost["node"], lost["pool"]) == (1, "dead", "i-1", "us-east-1a g5.xlarge")
    assert (continued["kind"], continued["node"], continued["code"]) == ("continued", "i-1", "silence")
    assert (continued["targets"], continued["streams"]) == (["i-2"], 1)
    assert continued["pause_ms"] == {"count": 1, "p50": 40.0, "p95": 40.0, "p99": 40.0, "longest": 40.0}


def test_continuations_of_one_loss_are_one_entry_with_their_pauses() -> None:
    timeline = Timeline()
    for stream in range(100):
        timeline.add_continued(10.0 + stream / 100, "i-1", "reset", f"i-{2 + stream % 2}", (stream + 1) / 1000)
    (entry,) = timeline.to_json()
    assert (entry["streams"], entry["targets"], entry["more_targets"]) == (100, ["i-2", "i-3"], 0)
    assert entry["pause_ms"] == {"count": 100, "p50": 50.0, "p95": 95.0, "p99": 99.0, "longest": 100.0}


def test_another_cause_another_node_or_another_time_is_another_entry() -> None:
    timeline = Timeline()
    for at, node, code in ((10.0, "i-1", "reset"), (10.0, "i-1", "handoff"), (10.0, "i-9", "reset")):
        timeline.add_continued(at, node, code, "i-2", 0.1)
    timeline.add_continued(10.0 + MERGE_WITHIN_S + 0.1, "i-1", "reset", "i-2", 0.1)
    assert [entry["streams"] for entry in timeline.to_json()] == [1, 1, 1, 1]


def test_errors_are_counted_by_their_code_and_by_whether_the_stream_goes_on() -> None:
    timeline = Timeline()
    for _ in range(3):
        timeline.add_ended(1.0, "i-0", "handoff", is_resumable=True)
    timeline.add_ended(1.0, "i-0", "engine_lost", is_resumable=False)
    assert [(entry["kind"], entry["code"], entry["streams"]) for entry in timeline.to_json()] == [
        ("broken", "engine_lost", 1),
        ("closed", "handoff", 3),
    ]


def test_it_is_bounded_whatever_happens() -> None:
    timeline = Timeline()
    for number in range(3 * MAX_ENTRIES):
        timeline.add_continued(float(100 * number), f"i-{number}", "reset", "i-x", 0.1)
    for stream in range(3 * MAX_PAUSES):
        timeline.add_continued(1e6, "i-1", "reset", f"i-{stream}", 0.1)
    entries = timeline.to_json()
    assert len(entries) == MAX_ENTRIES
    assert entries[0]["streams"] == 3 * MAX_PAUSES
    assert entries[0]["pause_ms"]["count"] == MAX_PAUSES
    assert len(entries[0]["targets"]) == MAX_TARGETS
    assert entries[0]["more_targets"] == MAX_ENTRIES - MAX_TARGETS
    assert [entry["number"] for entry in entries] == sorted((entry["number"] for entry in entries), reverse=True)
    assert len(timeline.to_json(5)) == 5
