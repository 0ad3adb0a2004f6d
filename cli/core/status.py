"""Decide whether a fleet is healthy: one finding for each thing that an operator looks at, with what to do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cli.core.cluster_key import split_fleets
from cli.core.clusters import Stack, busy_stacks
from cli.core.doctor_inputs import Finding, Verdict
from cli.core.first_day.alarm import Alarm
from cli.core.nodes import FleetStatus
from cli.core.result import Result, Unavailable
from cli.core.scaling_group import LaunchFailure, count_nodes
from node_agent.contract.capacity import CapacityRecord
from node_agent.contract.launch_breaker import BreakerRecord
from node_agent.contract.states import NodeState

_ALARM = "ALARM"
_ALARM_ADVICE = "docs/gitops.md, under Troubleshooting; synkti events has what happened"
_MANY = 3


@dataclass(frozen=True)
class StatusInputs:
    """What was read. urls: of clients; answers: whether the first of them answers from here."""

    stacks: Sequence[Stack]
    fleet: FleetStatus
    failures: Result[Sequence[LaunchFailure]]
    breaker: Result[BreakerRecord | None]
    capacity: Result[CapacityRecord | None]
    orphaned: Result[int]
    alarms: Result[Sequence[Alarm]]
    urls: Sequence[str]
    answers: bool


def evaluate_status(o: StatusInputs) -> tuple[Finding, ...]:
    """Return the findings, in the order in which they are shown."""
    return (
        _stacks(o),
        *_nodes(o),
        _version(o),
        _pools(o),
        _keys(o),
        _capacity(o),
        _clients(o),
        _streams(o),
        _alarms(o),
    )


def headline(findings: Sequence[Finding]) -> str:
    """Return the conclusion: healthy, or how much is wrong."""
    faults = sum(each.verdict is Verdict.FAULT for each in findings)
    warnings = sum(each.verdict is Verdict.WARNING for each in findings)
    unknown = [each.check for each in findings if each.verdict is Verdict.UNKNOWN]
    counts = [
        f"{count} {word}{'s' if count != 1 else ''}"
        for count, word in ((faults, "fault"), (warnings, "warning"))
        if count
    ]
    text = ", ".join(counts) or "healthy"
    return f"{text}, as far as is known (not: {', '.join(unknown)})" if unknown else text


def _stacks(o: StatusInputs) -> Finding:
    if busy := busy_stacks(o.stacks):
        found = f"{', '.join(busy)}: an operation is under way"
        return Finding(
            "stacks", Verdict.WARNING, found, "wait until it has ended; synkti nodes --watch shows the nodes"
        )
    broken = [f"{stack.name} {stack.status}" for stack in o.stacks if stack.exists and not _is_sound(stack)]
    if broken:
        advice = "CloudFormation's events of the stack have the reason; then synkti bootstrap"
        return Finding("stacks", Verdict.FAULT, ", ".join(broken), advice)
    return Finding("stacks", Verdict.OK, f"{len(o.stacks)} stacks are deployed")


def _is_sound(stack: Stack) -> bool:
    # After a rollback of an update the resources are those of before: the nodes serve, the change is missing.
    return stack.is_deployed and "ROLLBACK" not in stack.status


def _nodes(o: StatusInputs) -> Iterator[Finding]:
    fleet = o.fleet
    counts = Counter(node.state.value if node.state else node.ec2_state for node in fleet.nodes)
    states = ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))
    found = f"{len(fleet.ready)} of {fleet.desired} ready" + (f" ({states})" if states else "")
    if fleet.launches_suspended:
        advice = "mend what the nodes reported and deploy; or, if the cause was outside of them: synkti resume"
        yield Finding("nodes", Verdict.FAULT, f"{found}; launches are suspended, lost nodes are not replaced", advice)
    elif fleet.desired == 0:
        start = f"synkti scale {fleet.deployed}" if fleet.deployed else "synkti bootstrap"
        yield Finding("nodes", Verdict.WARNING, "the fleet is stopped: no request is answered", f"{start} starts it")
    elif not fleet.ready:
        yield Finding("nodes", Verdict.FAULT, found, "synkti logs NODE; synkti nodes --wait waits for them")
    elif len(fleet.ready) < fleet.desired:
        yield Finding("nodes", Verdict.WARNING, found, "replacements take minutes: synkti nodes --watch")
    else:
        yield Finding("nodes", Verdict.OK, found)
    if shut_out := [node.instance_id for node in fleet.nodes if node.is_shut_out]:
        advice = "examine it, then synkti shut-out NODE --terminate, and synkti cluster-key rotate"
        yield Finding("shut out", Verdict.WARNING, ", ".join(shut_out), advice)
    if not fleet.is_converged:
        yield from _launches(o)


def _launches(o: StatusInputs) -> Iterator[Finding]:
    """Yield why nodes are missing, where that is known."""
    if isinstance(o.breaker, BreakerRecord):
        for each in reversed(o.breaker.give_ups[-_MANY:]):
            found = f"{each.instance_id} gave up: {each.reason}"
            yield Finding("launches", Verdict.FAULT, found, f"synkti logs {each.instance_id} --from last")
    if not isinstance(o.failures, Unavailable):
        for failure in o.failures[:_MANY]:
            yield Finding("launches", Verdict.WARNING, failure.message, failure.advice)


def _version(o: StatusInputs) -> Finding:
    fleet = o.fleet
    if fleet.version is None:
        return Finding("version", Verdict.UNKNOWN, "the stacks do not have the deployed version", "deploy them again")
    if fleet.outdated:
        found = f"{len(fleet.outdated)} of {len(fleet.nodes)} nodes serve another version than {fleet.version[:12]}"
        return Finding("version", Verdict.WARNING, found, "an update replaces them one by one: synkti nodes --watch")
    return Finding("version", Verdict.OK, f"{fleet.version[:12]} on all nodes that serve")


def _pools(o: StatusInputs) -> Finding:
    spot = [node for node in o.fleet.ready if node.purchase_option == "spot"]
    pools = Counter((node.zone, node.instance_type) for node in spot)
    bought = f"{len(spot)} spot, {len(o.fleet.ready) - len(spot)} on demand"
    if len(spot) > 1 and len(pools) == 1:
        ((zone, instance_type),) = pools
        found = f"{bought}; all spot nodes are {instance_type} in {zone}: EC2 can take them together"
        return Finding("pools", Verdict.WARNING, found, "name more instance_types, or zones, in synkti.toml")
    leaving = sum(node.state in (NodeState.AT_RISK, NodeState.DRAINING) for node in o.fleet.nodes)
    left = f"; {leaving} at risk or draining, their streams move by themselves" if leaving else ""
    return Finding("pools", Verdict.OK, f"{bought}, in {len(pools)} spot pools{left}")


def _keys(o: StatusInputs) -> Finding:
    groups = split_fleets(o.fleet.nodes)
    if len(groups) > 1:
        found = f"the nodes are {len(groups)} fleets, because they share no key: {', '.join(groups[-1])} stand apart"
        advice = "synkti cluster-key status shows who has which; drain the nodes that stand apart"
        return Finding("cluster key", Verdict.FAULT, found, advice)
    return Finding("cluster key", Verdict.OK, "shared by all nodes that publish theirs")


def _capacity(o: StatusInputs) -> Finding:
    if isinstance(o.capacity, Unavailable):
        return Finding("capacity", Verdict.UNKNOWN, o.capacity.reason)
    if o.capacity is not None and o.capacity.base > 0:
        found = f"{count_nodes(o.capacity.base)} on demand, because EC2 had no spot capacity"
        return Finding(
            "capacity", Verdict.WARNING, found, "the fleet returns to spot by itself; synkti events has when"
        )
    return Finding("capacity", Verdict.OK, "no node is on demand for want of spot")


def _clients(o: StatusInputs) -> Finding:
    if not o.urls:
        return Finding("clients", Verdict.FAULT, "no node accepts requests", "see nodes, above")
    if o.answers:
        return Finding("clients", Verdict.OK, f"{o.urls[0]} answers from here")
    advice = "client_cidrs in synkti.toml says who may call; from here: synkti connect NODE --forward 8000:8000"
    return Finding("clients", Verdict.UNKNOWN, f"{o.urls[0]} does not answer from here", advice)


def _streams(o: StatusInputs) -> Finding:
    if isinstance(o.orphaned, Unavailable):
        return Finding("streams", Verdict.UNKNOWN, o.orphaned.reason)
    if o.orphaned:
        streams = "1 stream" if o.orphaned == 1 else f"{o.orphaned} streams"
        found = f"{streams} of lost nodes, which no client has taken up"
        advice = "synkti streams lists them; clients that cannot resume need synkti_client or synkti gateway"
        return Finding("streams", Verdict.WARNING, found, advice)
    return Finding("streams", Verdict.OK, "none of a lost node waits for its client")


def _alarms(o: StatusInputs) -> Finding:
    if isinstance(o.alarms, Unavailable):
        return Finding("alarms", Verdict.UNKNOWN, o.alarms.reason)
    if firing := [alarm.name for alarm in o.alarms if alarm.state == _ALARM]:
        return Finding(
            "alarms",
            Verdict.FAULT,
            ", ".join(firing),
            _ALARM_ADVICE,
        )
    return Finding("alarms", Verdict.OK, f"none of {len(o.alarms)} fires")
