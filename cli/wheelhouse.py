"""`synkti wheelhouse`: put the packages that nodes install into the models bucket."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from cli.account import Account
from cli.adapters.package_download import PackageDownloader
from cli.adapters.wheelhouse_bucket import WheelhouseBucket
from cli.deployment import read_request
from cli.errors import BadConfiguration, Failed
from cli.options import Cluster, Json, Profile, Region
from cli.terminal import Terminal
from node_agent.contract.names import models_bucket_name
from node_agent.contract.wheelhouse import PackageSet, package_sets
from stacks.settings import FleetSettings


def wheelhouse(
    replace: Annotated[bool, typer.Option("--replace", help="Upload everything again, for a damaged one.")] = False,
    cluster: Cluster = None,
    region: Region = None,
    profile: Profile = None,
    as_json: Json = False,
) -> None:
    """Upload the packages that nodes install to the models bucket: uv, CPython, the agent's, vLLM and its packages.

    Nodes then start without a package index, and without the internet. What is there already is not uploaded again; the
    first time some 4 GB are downloaded and uploaded. Each file is compared with the hashes of the lock files here, and
    on each node with those of its own release. synkti bootstrap does the same.

    \b
    Examples:
      synkti wheelhouse
      synkti wheelhouse --cluster staging --replace

    \f

    Raises:
        BadConfiguration: synkti.toml is invalid.
    """
    terminal = Terminal(as_json)
    what = read_request(cluster, region, profile, ())
    if not isinstance(what.settings, FleetSettings):
        raise BadConfiguration("; ".join(what.settings), "synkti.toml has every setting, with its meaning")
    what.account.require_account(what.settings.account)
    uploaded = push_packages(what.account, what.target_cluster, what.project.root, terminal, replace=replace)
    terminal.document({"cluster": what.target_cluster, "uploaded": uploaded})
    terminal.line(f"uploaded: {', '.join(uploaded)}" if uploaded else "the wheelhouse is complete")


def push_packages(
    account: Account, cluster: str, root: Path, terminal: Terminal, *, replace: bool = False
) -> list[str]:
    """Make the wheelhouse complete. Raises CliError and AWS's errors.

    Args:
        account: of the cluster.
        cluster: its name.
        root: the folder of the app that is deployed, with its lock files.
        terminal: shows the progress.
        replace: upload also what is there.

    Returns:
        The names of the sets that were uploaded.
    """
    bucket = open_wheelhouse(account, cluster)
    missing = [each for each in locked_packages(root) if replace or not bucket.is_complete(each)]
    if missing:
        with tempfile.TemporaryDirectory(prefix="synkti-") as scratch:
            downloader = PackageDownloader(root / "requirements", Path(scratch), os.environ)
            for each in missing:
                _push(bucket, each, downloader, terminal, replace=replace)
    return [each.name for each in missing]


def _push(
    bucket: WheelhouseBucket, each: PackageSet, downloader: PackageDownloader, terminal: Terminal, *, replace: bool
) -> None:
    with terminal.spinner(f"downloading the packages of requirements/{each.requirements}"):
        folder = downloader.download(each)
    total = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    with terminal.transfer(f"uploading {each.name}", total) as bar:
        bucket.upload(each, folder, bar.add, replace=replace)
    shutil.rmtree(folder)  # some GB, which the next set needs


def open_wheelhouse(account: Account, cluster: str) -> WheelhouseBucket:
    """Return the cluster's wheelhouse, whose bucket need not exist."""
    name = models_bucket_name(cluster, account.identity.account, account.region)
    return WheelhouseBucket(account.client("s3"), name)


def locked_packages(root: Path) -> tuple[PackageSet, ...]:
    """Return the sets of packages of the app in a folder. Raises Failed where a lock file cannot be read."""
    try:
        return package_sets(lambda name: (root / "requirements" / name).read_bytes())
    except OSError as error:
        problem = f"{error.filename} cannot be read: {error.strerror}"
        raise Failed(problem, "install synkti again, or check the project out again") from error
