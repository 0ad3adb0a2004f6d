"""Regions of AWS that lack a service: the settings and the stacks go by CloudFormation's own schemas."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from cfnlint.helpers import REGIONS
from cfnlint.schema import ResourceNotFoundError
from cfnlint.schema.manager import PROVIDER_SCHEMA_MANAGER

from checks.assemblies import SHIPPED, synthesize
from stacks.settings_rules import BUDGET_REGIONS, NO_BUILD_REGIONS

COMMERCIAL = {region for region in REGIONS if not region.startswith(("us-gov-", "us-iso", "cn-", "eu-iso", "eusc-"))}


def regions_with(kind: str) -> set[str]:
    def is_there(region: str) -> bool:
        try:
            PROVIDER_SCHEMA_MANAGER.get_resource_schema(region, kind)
        except ResourceNotFoundError:
            return False
        return True

    return {region for region in COMMERCIAL if is_there(region)}


def test_the_regions_with_budgets_are_those_of_cloudformation() -> None:
    assert regions_with("AWS::Budgets::Budget") == BUDGET_REGIONS


def test_the_regions_without_builds_are_those_of_cloudformation() -> None:
    assert COMMERCIAL - regions_with("AWS::CodeBuild::Project") == NO_BUILD_REGIONS


def test_where_there_are_no_builds_the_other_stacks_are_deployed(tmp_path: Path) -> None:
    found = synthesize(tmp_path, replace(SHIPPED, region="mx-central-1"))
    assert set(found.templates) == {"synkti-state", "synkti-fleet", "synkti-events"}
    kinds = {resource["Type"] for template in found.templates.values() for resource in template["Resources"].values()}
    assert not {kind for kind in kinds if kind.startswith("AWS::CodeBuild")}
