"""One cluster in one account and region: what every command that is about a running cluster begins with."""

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
from stacks.settings import SETTINGS_FILE


@dataclass(frozen=True)
class ClusterSelection:
    """What a person has said of which cluster is meant, on the command line or in synkti.toml; None: nothing."""

    cluster: str | None
    account: str
    region: str | None


@dataclass(frozen=True)
class Fleet:
    """stacks: the cluster's, in the order in which they were made or changed."""

    account: Account
    cluster: str
    stacks: tuple[Stack, ...]

    def output(self, key: str) -> str | None:
        """What the stacks say of themselves, by the output's name."""
        return next((stack.outputs[key] for stack in self.stacks if key in stack.outputs), None)

    def group_name(self) -> str:
        """The Auto Scaling group's name. Raises NotFound where the cluster has none yet."""
        name = self.output("AutoScalingGroupName")
        if name is None:
            raise NotFound(f"the cluster {self.cluster!r} has no fleet yet", "go on with synkti bootstrap")
        return name

    @property
    def models_bucket(self) -> str:
        return self.output("ModelsBucket") or names.models_bucket_name(
            self.cluster, self.account.identity.account, self.account.region
        )


def named(cluster: str | None, region: str | None, folder: Path | None = None) -> ClusterSelection:
    """Command line over synkti.toml (of `folder`, by default the working directory). Raises ConfigurationError."""
    path = (folder or Path.cwd()) / SETTINGS_FILE
    try:
        held = tomllib.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError([f"{path.name} cannot be read: {error}"]) from error
    if cluster is not None and not names.is_cluster_name(cluster):
        raise BadConfiguration(f"{cluster!r} is no cluster's name", "2-20 lower case letters, digits and hyphens")
    return ClusterSelection(
        cluster or _text(held.get("cluster")), _text(held.get("account")) or "", region or _text(held.get("region"))
    )


def open_account(cluster: str | None, region: str | None, profile: str | None) -> tuple[ClusterSelection, Account]:
    """The account that is meant, and what was said of the cluster. Raises CliError, ConfigurationError."""
    meant = named(cluster, region)
    account = Account(profile, meant.region)
    account.require(meant.account)
    return meant, account


def open_fleet(cluster: str | None, region: str | None, profile: str | None) -> Fleet:
    """The cluster that is meant. Raises CliError (none, several), ConfigurationError, AWS's errors."""
    meant, account = open_account(cluster, region, profile)
    found = clusters_of(Stacks(account.client("cloudformation")).every())
    chosen = choose(meant.cluster, found, account.where)
    return Fleet(account, chosen, found[chosen])


def open_models(cluster: str | None, region: str | None, profile: str | None) -> Fleet:
    """As open_fleet, but a models bucket is enough: it outlives its cluster."""
    meant, account = open_account(cluster, region, profile)
    found = clusters_of(Stacks(account.client("cloudformation")).every())
    every = {**dict.fromkeys(_clusters_with_a_bucket(account), ()), **found}
    # A bucket that was left behind makes nothing ambiguous as long as there is one cluster.
    among = every if meant.cluster is not None or not found else found
    chosen = choose(meant.cluster, among, account.where)
    return Fleet(account, chosen, among[chosen])


def _clusters_with_a_bucket(account: Account) -> list[str]:
    """Those whose models bucket is in the account; none where the buckets may not be listed."""
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
