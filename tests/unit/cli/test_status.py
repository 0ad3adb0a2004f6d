"""`synkti status`: healthy, or what is wrong and what to do."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from cli import status as command
from cli.core.clusters import Stack
from cli.core.doctor_inputs import Finding, Verdict
from cli.core.first_day.alarm import Alarm
from cli.core.nodes import FleetStatus, Node
from cli.core.result import Unavailable
from cli.core.scaling_group import LaunchFailure
from cli.core.status import StatusInputs, evaluate_status, headline
from node_agent.contract.capacity import CapacityRecord
from node_agent.contract.launch_breaker import BreakerRecord, GiveUp
from node_agent.contract.states import NodeState
from tests.unit.cli.conftest import DeployedFleet, Run
from tests.unit.cli.test_node_figures import NODE
from tests.unit.cli.test_streams import table_with_index

OTHER = replace(NODE, instance_id="i-0b", zone="us-east-1b")
STACK = Stack("synkti-fleet", "UPDATE_COMPLETE", "synkti", {}, 0.0)
HEALTHY = StatusInputs(
    stacks=(STACK,),
    fleet=FleetStatus((NODE, OTHER), 2, "v2", 2),
    failures=(),
    breaker=None,
    capacity=None,
    orphaned=0,
    alarms=(Alarm("synkti-a", "OK", None), Alarm("synkti-b", "INSUFFICIENT_DATA", None)),
    urls=("http://10.0.0.1:8000/v1",),
    answers=True,
)
CAPACITY = CapacityRecord("g", 2, 0.0, 0.0, "e", 1, 2**40)


def fleet_of(*nodes: Node, desired: int = 2, **given: Any) -> FleetStatus:
    return FleetStatus(nodes, desired, "v2", 2, **given)


def by_check(inputs: StatusInputs) -> dict[str, Finding]:
    return {finding.check: finding for finding in evaluate_status(inputs)}


def test_a_healthy_fleet_is_healthy() -> None:
    findings = evaluate_status(HEALTHY)
    assert {finding.verdict for finding in findings} == {Verdict.OK}
    assert headline(findings) == "healthy"
    assert by_check(HEALTHY)["nodes"].found == "2 of 2 ready (2 ready)"
    assert by_check(HEALTHY)["pools"].found == "2 spot, 0 on demand, in 2 spot pools"


STARTING, DRAINING = replace(OTHER, state=None), replace(OTHER, state=NodeState.DRAINING)


@pytest.mark.parametrize(
    ("changes", "check", "verdict", "found", "advice"),
    [
        ({"fleet": fleet_of(NODE)}, "nodes", Verdict.WARNING, "1 of 2 ready", "--watch"),
        ({"fleet": fleet_of(STARTING)}, "nodes", Verdict.FAULT, "0 of 2 ready (1 running)", "synkti logs"),
        ({"fleet": fleet_of(desired=0)}, "nodes", Verdict.WARNING, "stopped", "synkti scale 2"),
        ({"fleet": fleet_of(NODE, launches_suspended=True)}, "nodes", Verdict.FAULT, "suspended", "synkti resume"),
        ({"fleet": fleet_of(NODE, replace(OTHER, is_shut_out=True))}, "shut out", Verdict.WARNING, "i-0b", "rotate"),
        ({"fleet": fleet_of(NODE, replace(OTHER, version="v1"))}, "version", Verdict.WARNING, "1 of 2", "update"),
        ({"fleet": FleetStatus((NODE,), 1, None)}, "version", Verdict.UNKNOWN, "do not have", "deploy"),
        ({"fleet": fleet_of(NODE, replace(OTHER, zone=NODE.zone))}, "pools", Verdict.WARNING, "together", "zones"),
        ({"fleet": fleet_of(NODE, DRAINING, desired=1)}, "pools", Verdict.OK, "1 at risk or draining", ""),
        (
            {"fleet": fleet_of(replace(NODE, cluster_keys=("aaaaaaaa",)), replace(OTHER, cluster_keys=("bbbbbbbb",)))},
            "cluster key", Verdict.FAULT, "2 fleets", "cluster-key status",
        ),
        ({"stacks": (replace(STACK, status="UPDATE_IN_PROGRESS"),)}, "stacks", Verdict.WARNING, "under way", "wait"),
        ({"stacks": (replace(STACK, status="UPDATE_ROLLBACK_COMPLETE"),)}, "stacks", Verdict.FAULT, "BACK", "events"),
        ({"capacity": CAPACITY}, "capacity", Verdict.WARNING, "2 nodes on demand", "by itself"),
        ({"capacity": Unavailable("no table")}, "capacity", Verdict.UNKNOWN, "no table", ""),
        ({"orphaned": 4}, "streams", Verdict.WARNING, "4 streams of lost nodes", "synkti streams"),
        ({"orphaned": Unavailable("no index")}, "streams", Verdict.UNKNOWN, "no index", ""),
        ({"alarms": (Alarm("synkti-dead", "ALARM", None),)}, "alarms", Verdict.FAULT, "synkti-dead", "Troubleshooting"),
        ({"alarms": Unavailable("denied")}, "alarms", Verdict.UNKNOWN, "denied", ""),
        ({"answers": False}, "clients", Verdict.UNKNOWN, "does not answer from here", "client_cidrs"),
        ({"urls": ()}, "clients", Verdict.FAULT, "no node accepts", "above"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_what_to_do(
    changes: dict[str, Any], check: str, verdict: Verdict, found: str, advice: str
) -> None:
    finding = by_check(replace(HEALTHY, **changes))[check]
    assert finding.verdict is verdict
    assert found in finding.found
    assert advice in finding.advice


def test_why_nodes_are_missing_is_shown_only_while_some_are() -> None:
    breaker = BreakerRecord("g", "v2", (GiveUp("i-9", 0.0, "no model"),), 0.0, "", 1, 2**40)
    failures = (LaunchFailure(0.0, "VcpuLimitExceeded", "ask for more"),)
    short = evaluate_status(replace(HEALTHY, fleet=fleet_of(NODE), breaker=breaker, failures=failures))
    assert [each.found for each in short if each.check == "launches"] == ["i-9 gave up: no model", "VcpuLimitExceeded"]
    whole = evaluate_status(replace(HEALTHY, breaker=breaker, failures=failures))
    assert [each for each in whole if each.check == "launches"] == []


def test_the_headline_counts_and_names_what_is_unknown() -> None:
    findings = evaluate_status(replace(HEALTHY, fleet=fleet_of(NODE), urls=(), orphaned=1, alarms=Unavailable("x")))
    assert headline(findings) == "1 fault, 2 warnings, as far as is known (not: alarms)"


@pytest.fixture
def cluster(fleet: DeployedFleet, monkeypatch: pytest.MonkeyPatch) -> DeployedFleet:
    table_with_index()
    monkeypatch.setattr(command, "is_reachable", lambda url: True)
    fleet.ready()
    return fleet


def test_the_command_reads_a_fleet(cluster: DeployedFleet, run: Run) -> None:
    shown = run("status", "--json").document
    assert shown["verdict"] != "fault", shown
    assert {each["check"] for each in shown["findings"]} >= {"stacks", "nodes", "version", "pools", "clients"}
    done = run("status")
    assert done.code == 0
    assert "synkti in us-east-1: " in done.out
    assert "2 of 2 ready" in done.out


def test_a_fault_has_an_exit_code_for_scripts(cluster: DeployedFleet, run: Run) -> None:
    for instance_id in cluster.ids:
        cluster.tag(instance_id, State="gone")
    done = run("status")
    assert done.code == 3
    assert "FAULT" in done.out
    assert run("status", "--json").code == 3
