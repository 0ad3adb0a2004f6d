"""Open the cluster that a command works on: its account, region and stacks."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

from botocore.exceptions import ClientError

from cli.account import Account
from cli.adapters.stacks import Stacks
from cli.aws_errors import error_code
from cli.core.clusters import Stack, choose, clusters_of
from cli.errors import BadConfiguration, NotFound
from node_agent.contract import names
from node_agent.contract.errors import ConfigurationError
from stacks.settings import SETTINGS_FILE, UNREADABLE_TOML


@dataclass(frozen=True)
class ClusterSelection:
    """The cluster that the command line or synkti.toml names; None where it names none."""

    cluster: str | None
    account: str
    region: str | None


@dataclass(frozen=True)
class Fleet:
    """A cluster. stacks: in the order of their last change."""

    account: Account
    cluster: str
    stacks: tuple[Stack, ...]

    def output(self, key: str) -> str | None:
        """Return the value of a stack's output; None where no stack has it."""
        return next((stack.outputs[key] for stack in self.stacks if key in stack.outputs), None)

    def group_name(self) -> str:
        """Return the Auto Scaling group's name. Raises NotFound where the cluster has none yet."""
        name = self.output("AutoScalingGroupName")
        if name is None:
            raise NotFound(f"the cluster {self.cluster!r} has no fleet yet", "continue with synkti bootstrap")
        return name

    @property
    def requires_keys(self) -> bool:
        """True where the deployed nodes require a client's key."""
        return self.output("ClientKeys") == "required"

    @property
    def models_bucket(self) -> str:
        """The name of the models bucket; where no stack has it as an output, the name that a stack would give it."""
        return self.output("ModelsBucket") or names.models_bucket_name(
            self.cluster, self.account.identity.account, self.account.region
        )


def select_cluster(cluster: str | None, region: str | None, folder: Path | None = None) -> ClusterSelection:
    """Read the selection: the command line overrides synkti.toml.

    Args:
        cluster: of the command line; None: not given.
        region: of the command line; None: not given.
        folder: where synkti.toml may be; None: the working directory.

    Returns:
        The selection; what neither names is None, and its account then "".

    Raises:
        ConfigurationError: synkti.toml cannot be parsed.
        BadConfiguration: the given cluster is no cluster's name.
    """
    path = (folder or Path.cwd()) / SETTINGS_FILE
    try:
        held = tomllib.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except UNREADABLE_TOML as error:
        raise ConfigurationError([f"{path.name} cannot be read: {error}"]) from error
    if cluster is not None and not names.is_cluster_name(cluster):
        raise BadConfiguration(f"{cluster!r} is no cluster's name", "2-20 lower case letters, digits and hyphens")
    return ClusterSelection(
        cluster or _text(held.get("cluster")), _text(held.get("account")) or "", region or _text(held.get("region"))
    )


def open_account(cluster: str | None, region: str | None, profile: str | None) -> tuple[ClusterSelection, Account]:
    """Return the selection and its account. Raises CliError, ConfigurationError."""
    selection = select_cluster(cluster, region)
    account = Account(profile, selection.region)
    account.require_account(selection.account)
    return selection, account


def open_fleet(cluster: str | None, region: str | None, profile: str | None) -> Fleet:
    """Return the selected cluster. Raises CliError (none, several), ConfigurationError, AWS's errors."""
    selection, account = open_account(cluster, region, profile)
    found = clusters_of(Stacks(account.client("cloudformation")).list_stacks())
    chosen = choose(selection.cluster, found, account.description)
    return Fleet(account, chosen, found[chosen])


def open_models(cluster: str | None, region: str | None, profile: str | None) -> Fleet:
    """Return the selected cluster, as open_fleet; a models bucket without stacks is enough, since it outlives them."""
    selection, account = open_account(cluster, region, profile)
    found = clusters_of(Stacks(account.client("cloudformation")).list_stacks())
    every = {**dict.fromkeys(_clusters_with_a_bucket(account), ()), **found}
    # Retained buckets do not make the choice ambiguous as long as there is one cluster.
    among = every if selection.cluster is not None or not found else found
    chosen = choose(selection.cluster, among, account.description)
    return Fleet(account, chosen, among[chosen])


def _clusters_with_a_bucket(account: Account) -> list[str]:
    """Return the clusters with a models bucket in the account; none where listing buckets is not allowed."""
    suffix = names.models_bucket_name("", account.identity.account, account.region)
    try:
        buckets = account.client("s3").list_buckets()["Buckets"]
    except ClientError as error:
        if error_code(error) != "AccessDenied":
            raise
        return []
    return [each["Name"].removesuffix(suffix) for each in buckets if each["Name"].endswith(suffix)]


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None
