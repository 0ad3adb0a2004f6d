"""`synkti status`: one screen: whether the fleet is healthy, or what is wrong and what to do."""

from __future__ import annotations

import time
from collections.abc import Sequence

import typer

from cli.adapters.alarms import Alarms
from cli.adapters.breaker import read_breaker
from cli.adapters.records import Records
from cli.adapters.results import result_of
from cli.certificate import count_orphaned
from cli.core.doctor import worst_verdict
from cli.core.doctor_inputs import Verdict
from cli.core.first_day.alarm import Alarm
from cli.core.result import Unavailable
from cli.core.status import StatusInputs, evaluate_status, headline
from cli.doctor import print_findings
from cli.endpoint import base_urls, is_reachable
from cli.errors import NotFound
from cli.exit_codes import ExitCode
from cli.fleet import Fleet, open_fleet
from cli.nodes import FleetMonitor
from cli.options import Cluster, Json, Profile, Region
from cli.terminal import Terminal
from node_agent.contract.names import stack_name, table_name

_FAILURE_WINDOW_S = 3_600.0


def status(cluster: Cluster = None, region: Region = None, profile: Profile = None, as_json: Json = False) -> None:
    """Show on one screen whether the fleet is healthy, or what is wrong and what to do.

    Looked at are the stacks, nodes, version, pools, cluster key, capacity, clients' address, orphaned streams, and
    alarms. Nothing is changed. With a fault it ends with exit code 3.

    \b
    Examples:
      synkti status
      synkti status --json | jq '.findings[] | select(.verdict == "fault")'

    \f

    Raises:
        typer.Exit: a fault was found.
    """
    terminal = Terminal(as_json)
    fleet = open_fleet(cluster, region, profile)
    with terminal.spinner(f"looking at {fleet.cluster}"):
        findings = evaluate_status(_read(fleet))
    verdict = worst_verdict(findings)
    terminal.document(
        {
            "cluster": fleet.cluster,
            "region": fleet.account.region,
            "verdict": verdict.value,
            "findings": [finding.document() for finding in findings],
        }
    )
    terminal.line(f"{fleet.cluster} in {fleet.account.region}: {headline(findings)}")
    print_findings(terminal, findings)
    if verdict is Verdict.FAULT:
        raise typer.Exit(ExitCode.FINDINGS)


def _read(fleet: Fleet) -> StatusInputs:
    """Query AWS; the group and the instances have to answer, of all else the reason is shown. Raises AWS's errors."""
    account = fleet.account
    monitor = FleetMonitor(fleet, fleet.output("FleetVersion"))
    state = monitor.read_status()
    dynamodb, table = account.client("dynamodb"), table_name(fleet.cluster)
    records = Records(dynamodb, table)
    breaker = read_breaker(dynamodb, table, fleet.group_name())
    urls = _urls(fleet)
    return StatusInputs(
        stacks=fleet.stacks,
        fleet=state,
        failures=result_of(lambda: monitor.group.launch_failures(time.time() - _FAILURE_WINDOW_S)),
        breaker=Unavailable(breaker) if isinstance(breaker, str) else breaker,
        capacity=result_of(lambda: records.capacity(monitor.group.name)),
        orphaned=result_of(lambda: count_orphaned(fleet)),
        alarms=result_of(lambda: _alarms(fleet)),
        urls=urls,
        answers=bool(urls) and is_reachable(urls[0]),
    )


def _alarms(fleet: Fleet) -> Sequence[Alarm]:
    """Return the alarms of the cluster's stacks. Raises NotFound, AWS's errors."""
    account, stack = fleet.account, stack_name(fleet.cluster, "events")
    if stack not in {each.name for each in fleet.stacks}:
        raise NotFound(f"{stack} is not deployed, so there are no alarms")
    alarms = Alarms(account.client("cloudwatch"), account.client("sns"), account.client("cloudformation"))
    return alarms.of_stack(stack)


def _urls(fleet: Fleet) -> Sequence[str]:
    try:
        return base_urls(fleet)[0]
    except NotFound:
        return ()
