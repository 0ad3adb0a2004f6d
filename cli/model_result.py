"""What `model push` does alike for a folder and for a model on a hub: check the name and the fit, print the result."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from cli.adapters.gpu_types import describe_types, gpus_of
from cli.adapters.results import result_of
from cli.core.model_fit import report_fit
from cli.deployment import read_request
from cli.errors import BadUsage, Failed
from cli.fleet import Fleet
from cli.terminal import Terminal, human_bytes
from node_agent.contract.models import is_model_name
from node_agent.core.sizing.facts import ModelFiles
from stacks.settings import FleetSettings


@dataclass(frozen=True)
class PushResult:
    """The result of a push. digest: the manifest's SHA-256; sent_bytes: the bytes that were uploaded."""

    digest: str
    sent_bytes: int


def require_name(name: str) -> None:
    """Raise BadUsage for what cannot be a model's name."""
    if not is_model_name(name):
        raise BadUsage(f"{name!r} cannot be a model's name", "give one with --name: letters, digits, dots, hyphens")


def require_fit(terminal: Terminal, fleet: Fleet, files: ModelFiles, name: str) -> None:
    """Report which instance types of synkti.toml can run the model. Raises Failed where none of them can."""
    settings = read_request(fleet.cluster, fleet.account.region, fleet.account.profile, ()).settings
    if not isinstance(settings, FleetSettings):
        return  # doctor and every deployment report what is wrong with them
    types = settings.instance_types
    gpus = result_of(lambda: gpus_of(describe_types(fleet.account.client("ec2"), types)))
    report = report_fit(dataclasses.replace(settings, model=name), files, gpus)
    if not report.runs:
        raise Failed(
            "; ".join(finding.found for finding in report.findings),
            f"{report.findings[0].advice}; synkti model push --unchecked pushes it nevertheless",
        )
    for finding in report.findings:
        terminal.status(f"{finding.found}; {finding.advice}" if finding.advice else finding.found)


def print_result(
    terminal: Terminal,
    fleet: Fleet,
    name: str,
    files: int,
    size: int,
    digest: str,
    sent: int,
    *,
    same: bool | None = None,
) -> None:
    """Print what the bucket has now. same: whether nothing was changed; None: where nothing was sent."""
    same = sent == 0 if same is None else same
    terminal.document(
        {
            "cluster": fleet.cluster,
            "bucket": fleet.models_bucket,
            "model": name,
            "files": files,
            "bytes": size,
            "sent_bytes": sent,
            "changed": not same,
            "manifest_sha256": digest,
        }
    )
    what = f"{name}: {files} files, {human_bytes(size)}"
    terminal.line(f"{what}; nothing to do, it is up to date" if same else f"{what}; {human_bytes(sent)} sent")
    terminal.line(f'  model = "{name}"')
    terminal.line(f'  model_sha256 = "{digest}"')
