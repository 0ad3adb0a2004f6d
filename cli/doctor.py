"""`synkti doctor`: find what would make a deployment fail."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer
from botocore.exceptions import NoRegionError

from cli.adapters.cdk import Cdk, cache_folder, node_version, required_toolkit
from cli.adapters.doctor_collector import MIN_TOOLKIT_VERSION, collect, validate_templates
from cli.adapters.results import result_of
from cli.core.account_facts import AccountFacts
from cli.core.doctor import evaluate, evaluate_without_region, worst_verdict
from cli.core.doctor_inputs import Finding, Verdict
from cli.core.result import Result, Unavailable
from cli.deployment import DeploymentRequest, complete, look_up, read_request, read_settings
from cli.errors import Failed, ToolMissing
from cli.exit_codes import ExitCode
from cli.options import Cluster, Json, Profile, Region, Settings
from cli.terminal import Terminal
from cli.wheelhouse import locked_packages
from node_agent.contract.names import DEFAULT_CLUSTER
from node_agent.core.sizing.facts import ModelFiles

_MARKS = {
    Verdict.OK: ("ok", "green"),
    Verdict.WARNING: ("warning", "yellow"),
    Verdict.FAULT: ("FAULT", "bold red"),
    Verdict.UNKNOWN: ("unknown", "cyan"),
}


def doctor(
    templates: Annotated[
        bool, typer.Option("--templates/--no-templates", help="Synthesize and validate the templates.")
    ] = True,
    context: Settings = None,
    cluster: Cluster = None,
    region: Region = None,
    profile: Profile = None,
    as_json: Json = False,
) -> None:
    """Check everything that a deployment needs; nothing is changed.

    Checked are the settings, Node.js, credentials, region, instance types, GPU quotas, VPC, the CDK's own stack, the
    cluster's stacks, the packages that nodes install, the model, whether it fits the instance types' GPUs, the
    templates.

    Each finding has an advice. Checks that could not be made are reported as unknown. With a fault it ends with exit
    code 3.

    \b
    Examples:
      synkti doctor
      synkti doctor --region eu-west-1 -c nodes=5
      synkti doctor --json | jq '.findings[] | select(.verdict != "ok")'

    \f

    Raises typer.Exit where a check found a fault.
    """
    terminal = Terminal(as_json)
    try:
        what = read_request(cluster, region, profile, context or ())
    except NoRegionError:
        settings, has_file = read_settings(context or ())
        findings = evaluate_without_region(settings, node_version(), has_file=has_file)
        _conclude(terminal, cluster or DEFAULT_CLUSTER, None, findings)
        return
    findings = run_checks(terminal, what, look_up(what), templates=templates)
    _conclude(terminal, what.target_cluster, what.account.region, findings)


def _conclude(terminal: Terminal, cluster: str, region: str | None, findings: Sequence[Finding]) -> None:
    """Print the findings. Raises typer.Exit where one is a fault."""
    verdict = worst_verdict(findings)
    terminal.document(
        {
            "cluster": cluster,
            "region": region,
            "verdict": verdict.value,
            "findings": [finding.document() for finding in findings],
        }
    )
    print_findings(terminal, findings)
    if verdict is Verdict.FAULT:
        raise typer.Exit(ExitCode.FINDINGS)


def run_checks(
    terminal: Terminal,
    what: DeploymentRequest,
    facts: AccountFacts,
    *,
    templates: bool,
    files: Result[ModelFiles] | None = None,
) -> tuple[Finding, ...]:
    """Run all checks. Synthesis takes some seconds, the requests to AWS two or three.

    Args:
        terminal: shows the progress.
        what: the deployment that is checked.
        facts: what exists in the account already.
        templates: whether to synthesize and validate the templates.
        files: of the model that is to be uploaded; None: the model in the bucket is checked.

    Returns:
        The findings.
    """
    found: Result[Mapping[str, str | None]] = Unavailable("not looked at")
    toolkit = MIN_TOOLKIT_VERSION
    if templates:
        with tempfile.TemporaryDirectory(prefix="synkti-") as folder, terminal.spinner("synthesizing the templates"):
            found, toolkit = _synthesize(complete(what, facts), Path(folder))
    with terminal.progress_spinner(f"looking at {what.account.region}") as report:
        packages, has_file = locked_packages(what.project.root), what.project.settings is not None
        return evaluate(
            collect(
                what.account, what.target_cluster, what.settings, found, facts, toolkit, files, packages,
                has_file=has_file, report=report,
            )
        )  # fmt: skip


def print_findings(terminal: Terminal, findings: Sequence[Finding]) -> None:
    """Print a line for each finding, with its advice below."""
    width = max(len(finding.check) for finding in findings)
    for finding in findings:
        mark, style = _MARKS[finding.verdict]
        terminal.line(f"{mark:8} {finding.check:{width}}  {finding.found}", style)
        if finding.advice:
            terminal.line(f"{'':8} {'':{width}}  -> {finding.advice}")


def cdk_log(environ: Mapping[str, str], now: float) -> Path:
    """Return the log file of the CDK's output for one command."""
    return cache_folder(environ) / "logs" / f"cdk-{time.strftime('%Y%m%d-%H%M%S', time.gmtime(now))}.log"


def _synthesize(what: DeploymentRequest, folder: Path) -> tuple[Result[Mapping[str, str | None]], int]:
    if isinstance(what.settings, tuple):
        return Unavailable("not synthesized: the settings are wrong"), MIN_TOOLKIT_VERSION
    try:
        log = cdk_log(os.environ, time.time())
        cdk = Cdk(what.project, what.account.environ(), what.context, log, lambda done: None)
        assembly = cdk.synth(folder / "cdk.out")
    except ToolMissing as error:
        return Unavailable(error.message), MIN_TOOLKIT_VERSION
    except Failed as error:
        return {"synthesis": error.message}, MIN_TOOLKIT_VERSION
    return result_of(lambda: validate_templates(what.account, assembly)), required_toolkit(assembly)
