"""A node is taken away while a stream is open, and watched until the fleet is whole again."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import pytest

from cli.core.first_day.answers import Answer
from cli.core.first_day.report import Outcome
from cli.core.nodes import Node
from cli.first_day.losses import drain_step, interruption_by, interruption_step, watch_end
from cli.first_day.run import Undo
from node_agent.contract.drain_record import DrainRecord, DrainStep
from node_agent.contract.states import NodeState
from node_agent.contract.table_schema import TimelineStep
from tests.unit.cli.first_day.recorded import ANY, recorded
from tests.unit.cli.first_day.world import BEGAN, NODES, FakeCompletions, World, node, world

VICTIM = NODES[1]
NEW = "i-0000000000000000d"
WHOLE = Answer("one two three", VICTIM, "length", took_s=2.0)
MOVED = replace(WHOLE, continued=("handoff",), pause_ms=120.0)


def with_client(made: World, *answers: Answer) -> FakeCompletions:
    completions = FakeCompletions(list(answers))
    cast(Any, made.day).completions = lambda: completions
    return completions


def take(made: World) -> None:
    """The node drains, ends after two minutes, and is replaced after ten."""
    at = made.clock.at

    def drains() -> None:
        made.nodes[1] = replace(made.nodes[1], state=NodeState.DRAINING)
        made.group.lifecycle[VICTIM] = "Terminating:Wait"
        steps = (DrainStep("requested", BEGAN), DrainStep("cordoned", BEGAN + 0.2), DrainStep("untagged", BEGAN + 9))
        made.records.drained = DrainRecord(VICTIM, 1, "notice-seen", BEGAN, 0, steps)

    def proceeds() -> None:
        made.group.lifecycle[VICTIM] = "Terminating:Proceed"

    def gone() -> None:
        made.nodes[:] = [each for each in made.nodes if each.instance_id != VICTIM]
        made.group.lifecycle.pop(VICTIM)

    made.group.lifecycle[VICTIM] = "InService"
    made.clock.then |= {
        at + 2: drains,
        at + 40: proceeds,
        at + 122: gone,
        at + 600: lambda: made.nodes.append(node(NEW)),
    }


def test_a_nodes_end_is_watched_until_the_fleet_is_whole_again() -> None:
    made = world()
    take(made)
    end, seen = watch_end(made.day, VICTIM, BEGAN)
    assert (end.gone_at, end.whole_at) == (BEGAN + 122, BEGAN + 600)
    assert [each.state for each in seen] == ["InService", "Terminating:Wait", "Terminating:Proceed", ""]


def test_watching_has_a_bound() -> None:
    made = world()
    made.group.lifecycle[VICTIM] = "InService"
    end, _ = watch_end(made.day, VICTIM, BEGAN)
    assert (end.gone_at, end.whole_at, made.clock.at) == (None, None, 1_800.0)


def test_the_node_whose_engine_serves_the_stream_is_taken() -> None:
    made = world()
    completions = with_client(made, WHOLE, WHOLE, WHOLE, MOVED)
    taken: list[str] = []
    made.records.steps = {
        step.key: step
        for step in (
            TimelineStep("notice-seen", "imds", BEGAN + 6),
            TimelineStep("interruption-notice", "eventbridge", BEGAN + 8),
        )
    }

    def interrupt(chosen: Node) -> None:
        taken.append(chosen.instance_id)
        take(made)

    result = interruption_by(made.day, interrupt)
    assert taken == [VICTIM]
    assert result.outcome is Outcome.OK, result
    assert completions.closed
    assert completions.requested[:2] == [64, 4_032], "a probe, then a stream as long as the context"
    assert result.facts["replaced_after_s"] == 600.0


@pytest.mark.parametrize(
    ("nodes", "reason"),
    [
        ([node(NODES[0])], "fewer than two nodes"),
        ([node(NODES[0], "on-demand"), node(NODES[1], "on-demand")], "no spot node"),
    ],
)
def test_where_no_node_may_be_taken_the_step_has_the_reason(nodes: list[Node], reason: str) -> None:
    made = world()
    made.nodes[:] = nodes
    result = interruption_by(made.day, lambda chosen: pytest.fail("nothing may be taken"))
    assert (result.outcome, reason in result.summary) == (Outcome.NOT_RUN, True)


def test_without_a_reachable_node_nothing_is_taken() -> None:
    made = world()
    made.day.options = replace(made.day.options, urls=("http://127.0.0.1:9",))
    result = interruption_by(made.day, lambda chosen: pytest.fail("nothing may be taken"))
    assert result.outcome is Outcome.NOT_RUN
    assert "client_cidrs" in result.advice


def test_a_fleet_that_cannot_stream_loses_no_node() -> None:
    made = world()
    with_client(made, replace(WHOLE, error="503: no node"))
    result = interruption_by(made.day, lambda chosen: pytest.fail("nothing may be taken"))
    assert (result.outcome, "503: no node" in result.summary) == (Outcome.FAILED, True)


class AutoScaling:
    """Auto Scaling's two calls of a termination."""

    def __init__(self, made: World) -> None:
        self._made = made
        self.terminated: list[dict[str, Any]] = []

    def describe_auto_scaling_groups(self, **_: Any) -> dict[str, Any]:
        return {"AutoScalingGroups": [{"MinSize": 0, "MaxSize": 6, "DesiredCapacity": 3}]}

    def terminate_instance_in_auto_scaling_group(self, **given: Any) -> None:
        self.terminated.append(given)
        take(self._made)


def test_a_node_that_the_group_terminates_completes_its_hook() -> None:
    clients: dict[str, Any] = {}
    made = world(clients, outputs={"AutoScalingGroupName": "synkti-fleet"})
    clients["autoscaling"] = AutoScaling(made)
    with_client(made, WHOLE, WHOLE, WHOLE, MOVED)
    result = drain_step(made.day, Undo())
    assert clients["autoscaling"].terminated == [{"InstanceId": VICTIM, "ShouldDecrementDesiredCapacity": False}]
    assert result.outcome is Outcome.OK, result
    assert "completed the hook after 38 s of 120 s" in result.summary
    assert result.facts["waited_s"] == 38.0


def test_a_fleet_that_is_not_replaced_is_a_failure_of_the_drain() -> None:
    clients: dict[str, Any] = {}
    made = world(clients, outputs={"AutoScalingGroupName": "synkti-fleet"})
    made.day.options = replace(made.day.options, within_s=300.0)
    clients["autoscaling"] = AutoScaling(made)
    with_client(made, WHOLE)
    result = drain_step(made.day, Undo())
    assert (result.outcome, "not complete again" in result.summary) == (Outcome.FAILED, True)


def test_without_a_role_there_is_no_interruption() -> None:
    result = interruption_step(world().day, Undo())
    assert (result.outcome, "--fis-role" in result.advice) == (Outcome.NOT_RUN, True)


def test_an_experiment_that_was_begun_is_stopped_where_the_step_ends_early() -> None:
    template: Any = {"experimentTemplate": {"id": "EXT1"}}
    running: Any = {"experiment": {"id": "EXP1", "state": {"status": "running"}}}
    calls: list[Any] = [
        ("create_experiment_template", None, template),
        ("start_experiment", {"clientToken": ANY, "experimentTemplateId": "EXT1"}, {"experiment": {"id": "EXP1"}}),
        ("delete_experiment_template", {"id": "EXT1"}, template),
        ("get_experiment", {"id": "EXP1"}, running),
        ("stop_experiment", {"id": "EXP1"}, {"experiment": {"id": "EXP1"}}),
    ]
    with recorded("fis", *calls) as fis:
        made = world({"fis": fis}, outputs={"DrillRole": "arn:aws:iam::123456789012:role/drills"})
        with_client(made, WHOLE)

        def ctrl_c(seconds: float) -> None:
            if seconds != 5.0:  # the head start of the stream
                raise KeyboardInterrupt

        made.day.clock = replace(made.day.clock, sleep=ctrl_c)
        undo = Undo()
        with pytest.raises(KeyboardInterrupt):
            interruption_step(made.day, undo)
        done, left = undo.run()
    assert (len(done), left) == (1, ())
