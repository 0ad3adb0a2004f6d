"""The synthesized templates, made once: as for production, and as for the embedded AWS."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from aws_cdk import App

from app import build
from stacks.settings import FleetSettings


@dataclass(frozen=True)
class Synthesized:
    """folder: the cloud assembly; templates: by stack name; findings: cdk-nag's, without the acknowledged ones."""

    folder: Path
    templates: dict[str, dict[str, Any]]

    def resources(self, kind: str) -> dict[str, dict[str, Any]]:
        """Every resource of a CloudFormation type, of all stacks, by logical id."""
        every = [pair for template in self.templates.values() for pair in template["Resources"].items()]
        return {name: resource for name, resource in every if resource["Type"] == kind}

    def only(self, kind: str) -> dict[str, Any]:
        """The properties of the one resource of this type."""
        (resource,) = self.resources(kind).values()
        properties: dict[str, Any] = resource["Properties"]
        return properties


def synthesize(folder: Path, settings: FleetSettings) -> Synthesized:
    app = App(outdir=str(folder), analytics_reporting=False)
    stacks = build(app, settings)
    assembly = app.synth()
    templates = {stack.stack_name: assembly.get_stack_by_name(stack.stack_name).template for stack in stacks}
    return Synthesized(folder, templates)


@pytest.fixture(scope="session")
def production(tmp_path_factory: pytest.TempPathFactory) -> Synthesized:
    return synthesize(tmp_path_factory.mktemp("production"), FleetSettings(client_cidrs=("203.0.113.0/24",)))


@pytest.fixture(scope="session")
def local(tmp_path_factory: pytest.TempPathFactory) -> Synthesized:
    settings = FleetSettings(client_cidrs=("203.0.113.0/24",), local=True)
    return synthesize(tmp_path_factory.mktemp("local"), settings)
