"""Runs the real CDK CLI against the embedded AWS: bootstrap, synth and deploy.

The synthesized assembly is cached under a hash of all its sources, so that a run without changes deploys without
another synthesis; bootstrap and deploy are then one process. Else bootstrap, which needs no app, runs beside the
synthesis.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from local.aws import ACCOUNT, REGION, EmbeddedAws, run_tool
from local.cache import build_once, cache_dir, is_built
from node_agent.contract import names
from node_agent.contract.tags import CLUSTER_TAG
from stacks.settings import EMBEDDED

ROOT = Path(__file__).parent.parent
_GROUP_POLL_S = 0.25
_CDK = str(ROOT / "node_modules" / ".bin" / "cdk")
_SOURCES = (
    "app.py",
    "cdk.json",
    "package-lock.json",
    "cli",
    "requirements",
    "stacks",
    "lambdas",
    "node_agent",
)
_QUIET = {
    "CDK_DISABLE_CLI_TELEMETRY": "true",
    "JSII_SILENCE_WARNING_END_OF_LIFE_NODE_VERSION": "1",
    "JSII_SILENCE_WARNING_DEPRECATED_NODE_VERSION": "1",
}


@dataclass(frozen=True)
class Deployed:
    """The outputs of the deployed stacks."""

    cluster: str
    auto_scaling_group: str
    table: str


def deploy(
    aws: EmbeddedAws,
    folder: Path,
    cluster: str = names.DEFAULT_CLUSTER,
    more: Mapping[str, str] = MappingProxyType({}),
) -> Deployed:
    """Bootstrap and deploy everything; drills on. more: further settings. Raises LocalRunError."""
    environ = {**aws.environ(), **_QUIET}
    outside = folder / "bootstrap"  # where there is no cdk.json: bootstrap would synthesize the app first
    outside.mkdir(parents=True, exist_ok=True)
    bootstrap = ["bootstrap", f"aws://{ACCOUNT}/{REGION}", "--no-notices"]
    if assembly := cached_assembly(cluster, more):
        commands = [bootstrap, _deploy_arguments(assembly)]
        run_tool(_cdk(commands), outside, environ, "cdk bootstrap and deploy")
    else:
        with ThreadPoolExecutor() as beside:
            bootstrapped = beside.submit(run_tool, _cdk([bootstrap]), outside, environ, "cdk bootstrap")
            assembly = synthesize(cluster, more)
            bootstrapped.result()
        run_tool(_cdk([_deploy_arguments(assembly)]), outside, environ, "cdk deploy")
    outputs = _outputs(aws, cluster)
    return Deployed(cluster, outputs["AutoScalingGroupName"], outputs["TableName"])


def find_group(aws: EmbeddedAws, cluster: str, is_over: Callable[[], bool]) -> str | None:
    """Wait for the cluster's Auto Scaling group, which a deployment creates long before it is complete.

    As on AWS, the group launches instances from then on.

    Args:
        aws: where the stacks are deployed.
        cluster: the name.
        is_over: whether the deployment has ended.

    Returns:
        The group's name; None where the deployment has ended without one.
    """
    autoscaling = aws.client("autoscaling")
    while True:
        for group in autoscaling.describe_auto_scaling_groups()["AutoScalingGroups"]:
            if any((tag["Key"], tag["Value"]) == (CLUSTER_TAG, cluster) for tag in group.get("Tags", [])):
                return str(group["AutoScalingGroupName"])
        if is_over():
            return None
        time.sleep(_GROUP_POLL_S)


def _cdk(commands: list[list[str]]) -> list[str]:
    """Return the command that runs commands of the CDK CLI in one process."""
    return ["node", str(ROOT / "local" / "cdk_cli.cjs"), json.dumps(commands)]


def _deploy_arguments(assembly: Path) -> list[str]:
    argv = ["deploy", "--all", "--app", str(assembly), "--require-approval", "never", "--no-notices"]
    return [*argv, "--method", "direct", "--concurrency", "3", "--progress", "events"]


def cached_assembly(cluster: str, more: Mapping[str, str] = MappingProxyType({})) -> Path | None:
    """Return the cloud assembly of these settings and sources if it is in the cache."""
    name = _assembly_name(_context(cluster, more))
    return cache_dir() / name / "cdk.out" if is_built(name) else None


def _context(cluster: str, more: Mapping[str, str]) -> dict[str, str]:
    return {**EMBEDDED, "settings_file": "", "drills": "true", "cluster": cluster, **more}


def _assembly_name(settings: Mapping[str, str]) -> str:
    """Return the name in the cache: a hash of the settings and of all sources."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for path in _files(_SOURCES):
        digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return f"assembly-{digest.hexdigest()[:16]}"


def synthesize(cluster: str, more: Mapping[str, str] = MappingProxyType({})) -> Path:
    """Return the cloud assembly for the embedded AWS, from the cache if nothing changed. Raises LocalRunError."""
    settings = _context(cluster, more)

    def make(folder: Path) -> None:
        argv = [_CDK, "synth", "--quiet", "--all", "--output", str(folder / "cdk.out")]
        # No settings file: a local run is the same whatever the user deploys.
        argv += [word for key, value in settings.items() for word in ("-c", f"{key}={value}")]
        run_tool(argv, ROOT, {**os.environ, **_QUIET}, "cdk synth")

    return build_once(_assembly_name(settings), make) / "cdk.out"


def _files(sources: Iterable[str]) -> list[Path]:
    found = []
    for source in sources:
        path = ROOT / source
        files = (
            [path] if path.is_file() else [f for f in path.rglob("*") if f.is_file() and "__pycache__" not in f.parts]
        )
        found += files
    return sorted(found)


def _outputs(aws: EmbeddedAws, cluster: str) -> dict[str, str]:
    cloudformation = aws.client("cloudformation")
    found: dict[str, str] = {}
    for part in ("state", "fleet"):
        stack = cloudformation.describe_stacks(StackName=names.stack_name(cluster, part))["Stacks"][0]
        found |= {output["OutputKey"]: output["OutputValue"] for output in stack.get("Outputs", [])}
    return found
