"""Runs the real CDK CLI against the embedded AWS: bootstrap, synth and deploy.

The synthesized assembly is cached under a hash of all its sources, so that a run without changes deploys without
another synthesis. Bootstrap needs no app and runs concurrently with the synthesis.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from local.aws import ACCOUNT, REGION, EmbeddedAws, run_tool
from local.cache import build_once
from node_agent.contract import names
from stacks.settings import EMBEDDED

ROOT = Path(__file__).parent.parent
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
    with ThreadPoolExecutor() as beside:
        bootstrapped = beside.submit(
            run_tool, [_CDK, "bootstrap", f"aws://{ACCOUNT}/{REGION}"], outside, environ, "cdk bootstrap"
        )
        assembly = synthesize(cluster, more)
        bootstrapped.result()
    argv = [_CDK, "deploy", "--all", "--app", str(assembly), "--require-approval", "never"]
    argv += ["--method", "direct", "--concurrency", "3", "--progress", "events"]
    run_tool(argv, outside, environ, "cdk deploy")
    outputs = _outputs(aws, cluster)
    return Deployed(cluster, outputs["AutoScalingGroupName"], outputs["TableName"])


def synthesize(cluster: str, more: Mapping[str, str] = MappingProxyType({})) -> Path:
    """Return the cloud assembly for the embedded AWS, from the cache if nothing changed. Raises LocalRunError."""
    settings = {**EMBEDDED, "settings_file": "", "drills": "true", "cluster": cluster, **more}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for path in _files(_SOURCES):
        digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes())

    def make(folder: Path) -> None:
        argv = [_CDK, "synth", "--quiet", "--all", "--output", str(folder / "cdk.out")]
        # No settings file: a local run is the same whatever the user deploys.
        argv += [word for key, value in settings.items() for word in ("-c", f"{key}={value}")]
        run_tool(argv, ROOT, {**os.environ, **_QUIET}, "cdk synth")

    return build_once(f"assembly-{digest.hexdigest()[:16]}", make) / "cdk.out"


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
