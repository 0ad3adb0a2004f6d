"""`synkti doctor`: what a deployment would fail of, before it is tried."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from cli.adapters.cdk import Cdk, cache_folder, needed_toolkit
from cli.adapters.examine import LEAST_TOOLKIT, examine, seen, validated
from cli.core.doctor import conclude, worst
from cli.core.doctor_inputs import Finding, Seen, Unavailable, Verdict
from cli.deployment import DeploymentRequest, read_request
from cli.errors import Failed, ToolMissing
from cli.exit_codes import ExitCode
from cli.options import Cluster, Json, Profile, Region, Settings
from cli.terminal import Terminal

_MARKS = {
    Verdict.OK: ("ok", "green"),
    Verdict.WARNING: ("warning", "yellow"),
    Verdict.FAULT: ("FAULT", "bold red"),
    Verdict.UNKNOWN: ("unknown", "cyan"),
}


def doctor(
    templates: Annotated[
        bool, typer.Option("--templates/--no-templates", help="Synthesize the templates and have them checked.")
    ] = True,
    context: Settings = None,
    cluster: Cluster = None,
    region: Region = None,
    profile: Profile = None,
    as_json: Json = False,
) -> None:
    """Look at everything that a deployment needs: settings, Node.js, credentials, region, instance types, GPU quotas,
    VPC, the CDK's own stack, the cluster's stacks, the model, the templates. Nothing is changed.

    For each finding it says what to do. What could not be looked at is said to be unknown. With a fault it ends with
    exit code 3.

    \b
    Examples:
      synkti doctor
      synkti doctor --region eu-west-1 -c nodes=5
      synkti doctor --json | jq '.findings[] | select(.verdict != "ok")'
    """
    terminal = Terminal(as_json)
    what = read_request(cluster, region, profile, context or ())
    findings = examined(terminal, what, templates=templates)
    verdict = worst(findings)
    terminal.document(
        {
            "cluster": what.cluster_or_default,
            "region": what.account.region,
            "verdict": verdict.value,
            "findings": [finding.document() for finding in findings],
        }
    )
    show(terminal, findings)
    if verdict is Verdict.FAULT:
        raise typer.Exit(ExitCode.FINDINGS)


def examined(terminal: Terminal, what: DeploymentRequest, *, templates: bool) -> tuple[Finding, ...]:
    """All findings. Synthesizing takes some seconds, asking AWS two or three."""
    found: Seen[Mapping[str, str | None]] = Unavailable("not looked at")
    toolkit = LEAST_TOOLKIT
    if templates:
        with tempfile.TemporaryDirectory(prefix="synkti-") as folder, terminal.doing("synthesizing the templates"):
            found, toolkit = _synthesized(what, Path(folder))
    with terminal.doing(f"looking at {what.account.region}"):
        return conclude(examine(what.account, what.cluster_or_default, what.settings, found, toolkit))


def show(terminal: Terminal, findings: Sequence[Finding]) -> None:
    """A line for each finding, and what to do below it."""
    width = max(len(finding.check) for finding in findings)
    for finding in findings:
        mark, style = _MARKS[finding.verdict]
        terminal.line(f"{mark:8} {finding.check:{width}}  {finding.found}", style)
        if finding.advice:
            terminal.line(f"{'':8} {'':{width}}  -> {finding.advice}")


def cdk_log(environ: Mapping[str, str], now: float) -> Path:
    """Where the CDK's output of one command goes."""
    return cache_folder(environ) / "logs" / f"cdk-{time.strftime('%Y%m%d-%H%M%S', time.gmtime(now))}.log"


def _synthesized(what: DeploymentRequest, folder: Path) -> tuple[Seen[Mapping[str, str | None]], int]:
    if isinstance(what.settings, tuple):
        return Unavailable("not synthesized: the settings are wrong"), LEAST_TOOLKIT
    try:
        log = cdk_log(os.environ, time.time())
        cdk = Cdk(what.project, what.account.environ(), what.context, log, lambda done: None)
        assembly = cdk.synth(folder / "cdk.out")
    except ToolMissing as error:
        return Unavailable(error.message), LEAST_TOOLKIT
    except Failed as error:
        return {"synthesis": error.message}, LEAST_TOOLKIT
    return seen(lambda: validated(what.account, assembly)), needed_toolkit(assembly)
