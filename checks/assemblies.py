"""Synthesize the app's templates for checks: as shipped, and with every feature turned on."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from stacks.settings import FleetSettings

ACCOUNT = "123456789012"
REGION = "us-east-1"
CIDR = "203.0.113.0/24"
IMAGE_ID = "ami-0123456789abcdef0"
SHIPPED = FleetSettings(client_cidrs=(CIDR,))
"""The defaults, with one range of client addresses."""

EVERYTHING = replace(
    SHIPPED,
    account=ACCOUNT,
    region=REGION,
    load_balancer="public",
    certificate_arn="arn:aws:acm:us-east-1:123456789012:certificate/0a1b",
    domain="llm.example.com",
    scale_target=8,
    compile_caches=True,
    root_initialization_mib_per_s=200,
    bake_image=True,
    bake_model=True,
    base_image_id=IMAGE_ID,
    model_source="acme/tiny@v1",
    hub_token_secret="synkti-hub-token",  # noqa: S106 # a secret's name
    model_sha256="a" * 64,
    alarm_email="operator@example.com",
    budget_usd=1_000,
    budget_scope="cluster",
    github_repository="acme/models",
    github_owner_id="4321",
    github_repository_id="987654321",
    drills=True,
)

IN_A_VPC: dict[str, Any] = {
    "account": ACCOUNT,
    "region": REGION,
    "vpc": "existing",
    "vpc_id": "vpc-0123456789abcdef0",
    "subnet_ids": ("subnet-0123456789abcdef0", "subnet-0123456789abcdef1"),
    "route_table_ids": ("rtb-0123456789abcdef0",),
}
"""The settings of a fleet in an existing VPC."""


@dataclass(frozen=True)
class Synthesized:
    """A cloud assembly. folder: where it is; templates: by stack name."""

    folder: Path
    templates: dict[str, dict[str, Any]]

    def resources(self, kind: str) -> dict[str, dict[str, Any]]:
        """Return the resources of a CloudFormation type of all stacks, by logical id."""
        every = [pair for template in self.templates.values() for pair in template["Resources"].items()]
        return {name: resource for name, resource in every if resource["Type"] == kind}

    def only(self, kind: str) -> dict[str, Any]:
        """Return the properties of the only resource of this type."""
        (resource,) = self.resources(kind).values()
        properties: dict[str, Any] = resource["Properties"]
        return properties

    @property
    def lookups(self) -> list[Any]:
        """What the CDK would look up in an account before it could deploy: with any, a synthesis needs credentials."""
        manifest: dict[str, Any] = json.loads((self.folder / "manifest.json").read_text())
        return list(manifest.get("missing", []))


def synthesize(folder: Path, settings: FleetSettings) -> Synthesized:
    """Synthesize a deployment with these settings into `folder`. No request goes to an account."""
    from aws_cdk import App  # noqa: PLC0415 # starts a Node process, which most who import this module do not need

    from app import build  # noqa: PLC0415

    app = App(outdir=str(folder), analytics_reporting=False)
    stacks = build(app, settings)
    assembly = app.synth()
    templates = {stack.stack_name: assembly.get_stack_by_name(stack.stack_name).template for stack in stacks}
    return Synthesized(folder, templates)
