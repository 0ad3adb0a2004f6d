"""What the Lambdas decide: late, repeated, out of order, malformed, and other people's events included."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lambdas.core.decisions import (
    MAX_RECENT_INTERRUPTIONS,
    Action,
    InstanceDescription,
    Snapshot,
    append_interruption,
    decide,
)
from node_agent.contract.aws_events import Ec2Event, RebalanceRecommendation, SpotInterruption, StateChange
from node_agent.contract.states import NodeState
from node_agent.contract.table_schema import NodeRecord, TimelineStep
from node_agent.contract.tags import NodeTags

NODE = "i-0123456789abcdef0"
AT = 1_000_000.0
INTERRUPTED = SpotInterruption("e1", NODE, AT, "terminate")
REBALANCE = RebalanceRecommendation("e2", NODE, AT)


def changed(state: str) -> StateChange:
    return StateChange("e3", NODE, AT, state)


def seen(state: NodeState | None = NodeState.READY, cluster: str = "synkti") -> InstanceDescription:
    return InstanceDescription(NODE, "us-east-1a", "g5.xlarge", NodeTags(cluster, state).encode())


def record(state: NodeState = NodeState.READY, *steps: TimelineStep, incarnation_s: float = AT - 100) -> NodeRecord:
    timeline = {step.key: step for step in steps}
    return NodeRecord(NODE, "us-east-1a", "g5.xlarge", state, int(incarnation_s * 1000), 9, timeline)


@pytest.mark.parametrize(
    ("event", "state", "step"),
    [
        (INTERRUPTED, NodeState.DRAINING, "interruption-notice"),
        (REBALANCE, NodeState.AT_RISK, "rebalance-recommended"),
        (changed("shutting-down"), NodeState.GONE, "shutting-down"),
        (changed("terminated"), NodeState.GONE, "terminated"),
        (changed("stopping"), NodeState.GONE, "stopping"),
        (changed("stopped"), NodeState.GONE, "stopped"),
    ],
)
def test_each_event_moves_a_ready_node_forward(event: Ec2Event, state: NodeState, step: str) -> None:
    decision = decide(event, Snapshot(seen(), record()), "synkti", AT)
    assert (decision.action, decision.state) == (Action.ADVANCE, state)
    assert decision.step == TimelineStep(step, "eventbridge", AT)
    assert decision.tags is not None
    assert decision.tags.state is state
    assert decision.tags.deadline == (AT + 120 if event is INTERRUPTED else None)
    assert decision.interrupted is (event is INTERRUPTED)


def test_an_event_before_the_nodes_own_record_creates_one() -> None:
    decision = decide(INTERRUPTED, Snapshot(seen(), None), "synkti", AT)
    assert decision.action is Action.CREATE
    assert decision.record is not None
    assert decision.record.state is NodeState.DRAINING
    assert list(decision.record.timeline) == ["interruption-notice@eventbridge"]


def test_a_state_never_moves_back_but_the_late_step_is_recorded() -> None:
    decision = decide(REBALANCE, Snapshot(seen(NodeState.DRAINING), record(NodeState.DRAINING)), "synkti", AT)
    assert (decision.action, decision.state, decision.tags) == (Action.APPEND_STEP, None, None)
    assert decision.step is not None


def test_a_repeated_event_changes_nothing_but_may_write_missing_tags() -> None:
    step = TimelineStep("interruption-notice", "eventbridge", AT)
    held = record(NodeState.DRAINING, step)
    done = decide(INTERRUPTED, Snapshot(seen(NodeState.DRAINING), held), "synkti", AT)
    assert (done.action, done.reason, done.tags) == (Action.IGNORE, "already recorded", None)
    half = decide(INTERRUPTED, Snapshot(seen(NodeState.READY), held), "synkti", AT)
    assert half.action is Action.IGNORE
    assert half.tags is not None


@pytest.mark.parametrize(
    ("snapshot", "reason"),
    [
        (Snapshot(None, None), "unknown instance"),
        (Snapshot(seen(cluster="other"), None), "not a node of this cluster"),
        (Snapshot(InstanceDescription(NODE, "z", "t", {"Name": "a database"}), None), "not a node of this cluster"),
        (Snapshot(seen(), record(incarnation_s=AT + 3600)), "older than the node's incarnation"),
    ],
)
def test_an_event_of_another_cluster_or_an_older_incarnation_is_ignored(snapshot: Snapshot, reason: str) -> None:
    decision = decide(INTERRUPTED, snapshot, "synkti", AT)
    assert (decision.action, decision.reason, decision.tags) == (Action.IGNORE, reason, None)


@pytest.mark.parametrize("state", ["pending", "running", "rebooting"])
def test_a_state_that_ends_nothing_is_ignored(state: str) -> None:
    assert decide(changed(state), Snapshot(seen(), record()), "synkti", AT).action is Action.IGNORE


def test_an_instance_unknown_to_ec2_is_gone_in_its_record() -> None:
    decision = decide(changed("terminated"), Snapshot(None, record(NodeState.DRAINING)), "synkti", AT + 7200)
    assert (decision.action, decision.state, decision.tags) == (Action.ADVANCE, NodeState.GONE, None)


def test_a_node_that_removed_its_tags_gets_none_again() -> None:
    bare = InstanceDescription(NODE, "z", "t", {"SynktiCluster": "synkti"})
    decision = decide(INTERRUPTED, Snapshot(bare, record()), "synkti", AT)
    assert (decision.action, decision.tags) == (Action.ADVANCE, None)


def test_the_peer_address_stays_in_the_tags() -> None:
    addressed = replace(seen(), tags=NodeTags("synkti", NodeState.READY, "127.0.0.9:8001").encode())
    decision = decide(INTERRUPTED, Snapshot(addressed, record()), "synkti", AT)
    assert decision.tags is not None
    assert decision.tags.address == "127.0.0.9:8001"


def test_a_pools_recent_interruptions_are_bounded_and_counted_once() -> None:
    recent: tuple[int, ...] = ()
    for number in range(MAX_RECENT_INTERRUPTIONS + 5):
        recent = append_interruption(append_interruption(recent, AT + number), AT + number)
    assert len(recent) == MAX_RECENT_INTERRUPTIONS
    assert recent[-1] == round((AT + MAX_RECENT_INTERRUPTIONS + 4) * 1000)
