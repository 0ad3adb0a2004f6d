"""Copy a model from a hub into the models bucket by a build in the region; nothing passes through this machine."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from typing import Any

import boto3

from cli.adapters.hub import hub_of
from cli.adapters.model_builds import BuildState, ModelBuilds
from cli.adapters.model_documents import files_from_here
from cli.core.result import Unavailable
from cli.deployment import read_request
from cli.errors import Failed, NotFound
from cli.fleet import Fleet
from cli.hub_copy import Copied, CopyOptions
from cli.hub_job import read_job, run_job
from cli.model_result import PushResult, print_result, require_fit, require_name
from cli.polling import Clock, wait_for
from cli.terminal import Terminal
from node_agent.contract import environment as env
from node_agent.contract.hub import HubName
from node_agent.contract.names import model_project_name
from stacks.settings import FleetSettings
from stacks.settings_rules import NO_BUILD_REGIONS

CLOCK = Clock()
_WITHIN_S = 9 * 3_600.0
"""The longest build, and its wait for a machine."""

_EVERY_S = 5.0


def push_from_hub(
    fleet: Fleet, source: HubName, name: str, terminal: Terminal, options: CopyOptions, *, in_bootstrap: bool = False
) -> PushResult:
    """Copy a model from the hub in the region, as `model push`. Raises CliError and AWS's errors."""
    require_name(name)
    require_builds(fleet.account.region)
    if not (options.unchecked or in_bootstrap):
        settings = read_request(fleet.cluster, fleet.account.region, fleet.account.profile, ()).settings
        has_token = isinstance(settings, FleetSettings) and bool(settings.hub_token_secret)
        files = files_from_here(source, os.environ, build_has_token=has_token)
        if isinstance(files, Unavailable):
            terminal.status(f"whether it fits is decided by the build: {files.reason}")
        else:
            require_fit(terminal, fleet, files, name)
    copied = copy_from_hub(fleet, source, name, options, terminal)
    if not in_bootstrap:
        print_result(terminal, fleet, name, copied.files, copied.size, copied.digest, copied.sent_bytes)
    return PushResult(copied.digest, copied.sent_bytes)


def require_builds(region: str) -> None:
    """Raise NotFound where the region has no CodeBuild, which copies models from a hub."""
    if region in NO_BUILD_REGIONS:
        raise NotFound(
            f"{region} has no CodeBuild, which copies models from a hub",
            "download the model, and push its folder: synkti model push DIR",
        )


def copy_from_hub(fleet: Fleet, source: HubName, name: str, options: CopyOptions, terminal: Terminal) -> Copied:
    """Run a build that copies the model, and report its progress.

    On the embedded AWS, which runs no builds, this process does what the build would.

    Args:
        fleet: the cluster.
        source: the model on the hub.
        name: of the model in the bucket.
        options: as of `model push`.
        terminal: shows the build's lines.

    Returns:
        The result. Raises CliError, AWS's errors.

    Raises:
        KeyboardInterrupt: of this command; the build continues.
    """
    variables = {
        env.MODEL_NAME: name,
        env.MODEL_SOURCE: str(source),
        env.HUB_REPLACE: _flag(options.replace),
        env.HUB_EVERYTHING: _flag(options.everything),
        env.HUB_UNCHECKED: _flag(options.unchecked),
    }
    if fleet.account.is_embedded:
        job = read_job({**variables, env.MODELS_BUCKET: fleet.models_bucket})
        session = boto3.session.Session(profile_name=fleet.account.profile, region_name=fleet.account.region)
        return run_job(job, session, hub_of(os.environ), terminal.status)
    account = fleet.account
    builds = ModelBuilds(account.client("codebuild"), account.client("logs"), model_project_name(fleet.cluster))
    build_id = builds.start(variables)
    terminal.status(f"the build {build_id} copies {source} to models/{name}")
    try:
        return _follow(builds, build_id, terminal)
    except KeyboardInterrupt:
        terminal.status("the build continues; the same command later finds what it has copied")
        raise


def _flag(value: bool) -> str:
    return "true" if value else "false"


def _follow(builds: ModelBuilds, build_id: str, terminal: Terminal) -> Copied:
    documents: list[dict[str, Any]] = []
    with terminal.progress_spinner("waiting for a machine") as show_step:

        def finished() -> BuildState | None:
            state = builds.state(build_id)
            documents.extend(_show(builds.new_lines(state), terminal))
            show_step(f"build: {state.phase.lower().replace('_', ' ')}")
            return state if state.is_done else None

        advice = "its log is in CodeBuild's console"
        state = wait_for(finished, f"the build {build_id}", within_s=_WITHIN_S, every_s=_EVERY_S, clock=CLOCK,
                         advice=advice)  # fmt: skip
        # The log's last lines may appear after the build's end.
        if not documents:
            CLOCK.sleep(_EVERY_S)
            documents.extend(_show(builds.new_lines(state), terminal))
    return _result(state, documents)


def _show(lines: Iterable[str], terminal: Terminal) -> list[dict[str, Any]]:
    """Show the job's own lines; return the documents among them. CodeBuild's lines begin with [Container]."""
    found = []
    for line in lines:
        document = _document(line)
        if document is not None:
            found.append(document)
        elif line and not line.startswith("[Container]"):
            terminal.status(f"  {line}")
    return found


def _document(line: str) -> dict[str, Any] | None:
    try:
        document = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) and {"copied", "error"} & set(document) else None


def _result(state: BuildState, documents: list[dict[str, Any]]) -> Copied:
    match documents[-1] if documents else None:
        case {"copied": {"origin": str(origin), "digest": str(digest), "files": int(files), "size": int(size),
                         "sent_bytes": int(sent)}}:  # fmt: skip
            return Copied(origin, digest, files, size, sent)
        case {"error": {"message": str(message), "advice": str(advice)}}:
            raise Failed(message, advice)
    raise Failed(
        f"the build ended as {state.status} in the phase {state.phase} without a result",
        f"its log: aws logs tail {state.group} --log-stream-names {state.stream}" if state.stream else
        "CodeBuild's console has its phases",
    )  # fmt: skip
