"""Steps that change nothing: the fleet's state, the launch hook, the permission to tag."""

from __future__ import annotations

from cli.adapters.ssm import Commands
from cli.core.first_day.lifecycle import judge_launches
from cli.core.first_day.permissions import judge_tags, parse_answers, tag_script
from cli.core.first_day.redaction import Fact
from cli.core.first_day.report import StepResult, failed, not_run, passed
from cli.first_day.day import FirstDay
from cli.first_day.run import Undo
from node_agent.contract.names import READY_HOOK


def fleet_step(day: FirstDay, undo: Undo) -> StepResult:
    """Check that as many nodes serve as desired; every other step relies on it."""
    status = day.status()
    ready = status.ready
    facts: dict[str, Fact] = {
        "desired": status.desired,
        "ready": len(ready),
        "spot": sum(node.purchase_option == "spot" for node in ready),
        "types": sorted({node.instance_type for node in ready}),
        "zones": sorted({node.zone for node in ready}),
    }
    if status.desired == 0:
        return failed("the fleet is stopped", "synkti scale N --wait, then run this again", **facts)
    if not status.is_converged:
        return failed(status.summary, "synkti nodes --wait, then run this again", **facts)
    return passed(status.summary, **facts)


def launch_step(day: FirstDay, undo: Undo) -> StepResult:
    """Check that the nodes that serve completed the launch hook themselves."""
    nodes = [node.instance_id for node in day.ready_nodes()]
    group = day.group
    return judge_launches(nodes, group.launches(), group.states(), group.hook_timeout_s(READY_HOOK))


def tag_step(day: FirstDay, undo: Undo) -> StepResult:
    """Have a node send dry runs of tagging itself and another one."""
    nodes = [node.instance_id for node in day.ready_nodes()]
    if not nodes:
        return not_run("no node is ready", "synkti nodes --wait waits for one")
    other = nodes[1] if len(nodes) > 1 else None
    account = day.fleet.account
    script = tag_script(account.region, nodes[0], other)
    output = Commands(account.client("ssm"), day.clock).run(nodes[0], script)
    return judge_tags(parse_answers(output), has_other=other is not None)
