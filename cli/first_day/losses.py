"""The steps that take a node away while a stream is open: by the group, and by EC2."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence

from cli.adapters.drills import Interruptions
from cli.adapters.instances import Group
from cli.adapters.open_streams import Completions, OpenStreams
from cli.core.first_day.answers import PROBE_TOKENS, Answer, judge_answers, length_for
from cli.core.first_day.interruption import NodeEnd, end_facts, judge_interruption
from cli.core.first_day.lifecycle import StateSeen, judge_termination
from cli.core.first_day.report import Outcome, StepResult, failed, not_run
from cli.core.nodes import Node
from cli.first_day.day import POLL_S, FirstDay
from cli.first_day.run import Undo
from node_agent.contract.names import DRAINED_HOOK

_LAST_STREAM_S = 300.0
"""How long the stream that was open at the end may take."""

_HEAD_START_S = 5.0
Loss = tuple[NodeEnd, Sequence[StateSeen], StepResult]


def drain_step(day: FirstDay, undo: Undo) -> StepResult:
    """Have the group terminate a node, and check that the node drains and completes the hook."""
    group = Group(day.fleet.account.client("autoscaling"), day.fleet.group_name())
    lost = lose(day, lambda node: group.terminate(node.instance_id, shrink=False), spot_only=False)
    if isinstance(lost, StepResult):
        return lost
    end, seen, streams = lost
    result = judge_termination(seen, end.drain, day.group.hook_timeout_s(DRAINED_HOOK))
    if result.outcome is Outcome.OK and streams.outcome is not Outcome.OK:
        result = streams
    if result.outcome is Outcome.OK and end.whole_at is None:
        result = failed("the fleet was not complete again in time", "synkti nodes shows why")
    facts = {**end_facts(end), **streams.facts, **result.facts}
    summary = f"{result.summary}; {streams.summary}" if result.outcome is Outcome.OK else result.summary
    return StepResult(result.outcome, summary, result.advice, facts)


def interruption_step(day: FirstDay, undo: Undo) -> StepResult:
    """Have EC2 reclaim a spot node by the Fault Injection Service."""
    role = day.options.fis_role or day.fleet.output("DrillRole")
    if not role:
        advice = "--fis-role ARN; docs/gitops.md, under Drills, has the role and its policy"
        return not_run("the Fault Injection Service has no role", advice)
    interruptions = Interruptions(day.fleet.account.client("fis"), day.fleet.cluster)

    started: list[str] = []

    def interrupt(node: Node) -> None:
        started.append(
            interruptions.interrupt(day.fleet.account.instance_arn(node.instance_id), role, str(uuid.uuid4()))
        )

    undo.add(
        "the experiment was stopped; EC2 may take the node all the same",
        "the group replaces the node: synkti nodes --wait",
        lambda: any(map(interruptions.stop, started)),
    )

    return interruption_by(day, interrupt)


def interruption_by(day: FirstDay, interrupt: Callable[[Node], None], *, spot_only: bool = True) -> StepResult:
    """Interrupt a node while a stream is open, and judge what followed."""
    lost = lose(day, interrupt, spot_only=spot_only)
    if isinstance(lost, StepResult):
        return lost
    end, _, streams = lost
    return judge_interruption(end, streams)


def lose(day: FirstDay, take: Callable[[Node], None], *, spot_only: bool) -> Loss | StepResult:
    """Take away the node whose engine serves a stream, with streams open until the fleet is whole again.

    Args:
        day: the fleet.
        take: has the node taken away.
        spot_only: whether only a spot instance may be taken.

    Returns:
        What was observed; the step's result where it cannot run.
    """
    nodes = day.ready_nodes()
    if len(nodes) < 2:
        return not_run("fewer than two nodes serve: a stream would have nowhere to go", "synkti scale 2 --wait")
    candidates = [node for node in nodes if not spot_only or node.purchase_option == "spot"]
    if not candidates:
        return not_run("no spot node serves: only spot instances are interrupted", "on_demand_base = 0")
    completions = day.completions()
    if isinstance(completions, StepResult):
        return completions
    try:
        reference = _reference(completions)
        if reference.error is not None:
            return failed(f"an undisturbed stream failed: {reference.error}", "synkti endpoint --check; synkti logs")
        victim = next((node for node in candidates if node.instance_id == reference.node), candidates[0])
        return _lose(day, completions, reference, victim, take)
    finally:
        completions.close()


def _reference(completions: Completions) -> Answer:
    """Return an undisturbed answer that takes longer than a drain; or the error of a shorter one."""
    probe = completions.answer(PROBE_TOKENS)
    return probe if probe.error is not None else completions.answer(length_for(probe, completions.context()))


def _lose(
    day: FirstDay, completions: Completions, reference: Answer, victim: Node, take: Callable[[Node], None]
) -> Loss:
    with OpenStreams(completions, max(1, reference.tokens)) as streams:
        day.clock.sleep(_HEAD_START_S)
        began_at = day.wall()
        take(victim)
        end, seen = watch_end(day, victim.instance_id, began_at)
        answers = streams.finish(_LAST_STREAM_S)
    return end, seen, judge_answers(reference, answers)


def watch_end(day: FirstDay, instance_id: str, began_at: float) -> tuple[NodeEnd, list[StateSeen]]:
    """Watch a node until it is gone and the fleet is whole again, or the time is up.

    Returns:
        Its end, and its lifecycle states in the group.
    """
    seen: list[StateSeen] = []
    gone_at = whole_at = None
    give_up_at = day.clock.now() + day.options.within_s
    while whole_at is None and day.clock.now() < give_up_at:
        status = day.status()
        if not seen or seen[-1].state:
            state = day.group.state_of(instance_id)
            if not seen or seen[-1].state != state:
                seen.append(StateSeen(state, day.clock.now()))
        if gone_at is None and not day.is_running(instance_id):
            gone_at = day.wall()
        if gone_at is not None and status.is_converged:
            whole_at = day.wall()
        else:
            day.clock.sleep(POLL_S)
    records = day.records
    return NodeEnd(began_at, records.timeline(instance_id), records.drain(instance_id), gone_at, whole_at), seen
