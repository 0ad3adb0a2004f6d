"""Resolve settings, account and cluster for the commands that deploy or check a deployment."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

from cli.account import Account
from cli.adapters.account_facts import read_facts
from cli.adapters.cdk import Project, cache_folder, find_project
from cli.adapters.results import result_of
from cli.adapters.stacks import Stacks
from cli.core.account_facts import NOT_LOOKED_AT, AccountFacts, missing_settings
from cli.core.clusters import BUSY_ADVICE, busy_stacks, choose_for_deployment, clusters_of
from cli.core.result import Unavailable
from cli.core.settings_file import Value, lines_of, with_settings
from cli.errors import BadConfiguration, BadUsage, Failed
from cli.fleet import select_cluster
from node_agent.contract.errors import ConfigurationError
from node_agent.contract.names import DEFAULT_CLUSTER, models_bucket_name
from stacks.settings import EMBEDDED, FleetSettings, from_values, load


@dataclass(frozen=True)
class Deployment:
    """A resolved deployment. context: overrides of the settings' file, for the CDK; settings: with these overrides."""

    account: Account
    project: Project
    settings: FleetSettings
    context: Mapping[str, str]

    @property
    def cluster(self) -> str:
        """The name of the cluster to deploy."""
        return self.settings.cluster


@dataclass(frozen=True)
class DeploymentRequest:
    """A requested deployment, before any request to AWS. cluster: None if none is named; settings: or their faults."""

    account: Account
    project: Project
    context: Mapping[str, str]
    cluster: str | None
    settings: FleetSettings | tuple[str, ...]

    @property
    def target_cluster(self) -> str:
        """The named cluster, else the default one."""
        return self.cluster or DEFAULT_CLUSTER


def read_context(pairs: Sequence[str]) -> dict[str, str]:
    """Parse `-c KEY=VALUE`, as the CDK has it. Raises BadUsage for a key that is no setting."""
    known = [each.name for each in fields(FleetSettings)]
    found = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise BadUsage(f"-c {pair}: a setting is given as KEY=VALUE", "such as -c nodes=5")
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            raise BadUsage(
                f"-c {pair}: there is no setting {key!r}", f"is {near[0]!r} meant?" if near else "see synkti.toml"
            )
        found[key] = value
    return found


def local_settings(context: Mapping[str, str]) -> FleetSettings:
    """Read the settings without any account: of the working directory's synkti.toml, and the context."""
    return load(Path.cwd(), context.get)


def read_settings(pairs: Sequence[str]) -> tuple[FleetSettings | tuple[str, ...], bool]:
    """Return the settings or their faults, and whether a file has them. Raises BadUsage as `read_context`."""
    project = find_project(Path.cwd(), cache_folder(os.environ))
    return _settings(project, read_context(pairs)), project.settings is not None


def read_request(
    cluster: str | None, region: str | None, profile: str | None, pairs: Sequence[str]
) -> DeploymentRequest:
    """Read the request without requests to AWS. Raises CliError, BotoCoreError, ConfigurationError."""
    context = read_context(pairs)
    project = find_project(Path.cwd(), cache_folder(os.environ))
    selection = select_cluster(
        cluster or context.get("cluster"), region or context.get("region"), project.settings and project.settings.parent
    )
    if selection.cluster:
        context["cluster"] = selection.cluster
    account = Account(profile, selection.region)
    if account.is_embedded:
        context = {**EMBEDDED, **context}
    settings = _settings(project, context)
    if isinstance(settings, FleetSettings) and settings.region not in ("", account.region):
        context["region"] = account.region
        settings = _settings(project, context)
    return DeploymentRequest(account, project, context, selection.cluster, settings)


def look_up(what: DeploymentRequest) -> AccountFacts:
    """Return what the account has of what the settings refer to.

    Nothing is read for invalid settings, without credentials, in an unknown region, and on the embedded AWS.
    """
    account = what.account
    if not isinstance(what.settings, FleetSettings) or account.is_embedded:
        return NOT_LOOKED_AT
    if account.region not in account.local_regions() or isinstance(result_of(lambda: account.identity), Unavailable):
        return NOT_LOOKED_AT
    return read_facts(account, what.settings)


def complete(what: DeploymentRequest, facts: AccountFacts) -> DeploymentRequest:
    """Return the request with the settings that the file lacks and the account answers."""
    if not isinstance(what.settings, FleetSettings):
        return what
    found = missing_settings(what.settings, facts)
    context = {**what.context, **{name: _as_option(value) for name, value in found.items()}}
    return replace(what, context=context, settings=_settings(what.project, context))


def write_found(what: DeploymentRequest, facts: AccountFacts) -> dict[str, Value]:
    """Write what `complete` adds into the settings' file, if `is_of_file`.

    Returns:
        The settings that were missing, written or not.

    Raises Failed as `write_settings`.
    """
    if not isinstance(what.settings, FleetSettings):
        return {}
    found = missing_settings(what.settings, facts)
    path = what.project.settings
    if found and path is not None and is_of_file(what):
        write_settings(path, found)
    return found


def write_settings(path: Path, values: Mapping[str, Value]) -> None:
    """Write settings into the settings' file. Raises Failed."""
    try:
        path.write_text(with_settings(path.read_text(encoding="utf-8"), values), encoding="utf-8")
    except OSError as error:
        raise Failed(f"{path} could not be written: {error.strerror}", f"add to it:\n{lines_of(values)}") from error


def file_of(what: DeploymentRequest) -> Path | None:
    """Return the settings' file, if the request has its settings; else it may be of another deployment."""
    return what.project.settings if is_of_file(what) else None


def is_of_file(what: DeploymentRequest) -> bool:
    """Return whether the request has the file's settings; with `-c` or --region it may be another deployment."""
    return what.project.settings is not None and _settings(what.project, {}) == what.settings


def _as_option(value: Value) -> str:
    return ",".join(value) if isinstance(value, tuple) else str(value)


def resolve(what: DeploymentRequest) -> Deployment:
    """Check the request against the account and its clusters. Raises CliError, AWS's errors."""
    if not isinstance(what.settings, FleetSettings):
        raise BadConfiguration("; ".join(what.settings), "synkti.toml has every setting, with its meaning")
    what.account.require_account(what.settings.account)
    found = clusters_of(Stacks(what.account.client("cloudformation")).list_stacks())
    choose_for_deployment(what.cluster, what.settings.cluster, found, what.account.description)
    return Deployment(what.account, what.project, what.settings, what.context)


def require_idle(deployment: Deployment) -> None:
    """Raise Failed while another operation on the cluster's stacks is under way. Raises AWS's errors."""
    every = Stacks(deployment.account.client("cloudformation")).list_stacks()
    if busy := busy_stacks(clusters_of(every).get(deployment.cluster, ())):
        raise Failed(f"another deployment is under way: {', '.join(busy)}", BUSY_ADVICE)


def models_bucket(deployment: Deployment) -> str:
    """Return the name of the cluster's models bucket. Raises as the account's identity."""
    account = deployment.account
    return models_bucket_name(deployment.cluster, account.identity.account, account.region)


def _settings(project: Project, context: Mapping[str, str]) -> FleetSettings | tuple[str, ...]:
    try:
        if project.settings is None:
            return from_values({}, context.get)
        return load(project.settings.parent, context.get)
    except ConfigurationError as error:
        return error.faults
