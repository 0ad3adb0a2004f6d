"""Every allowed pair of settings is synthesized without an account: a pull request and CI have no credentials."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
from aws_cdk import App

import app as program
from app import build
from checks.assemblies import EVERYTHING, IN_A_VPC, SHIPPED, Synthesized, synthesize
from checks.setting_pairs import DIMENSIONS, pairwise
from node_agent.contract.errors import ConfigurationError
from stacks.settings import FleetSettings
from stacks.settings_rules import validation_errors

DEPLOYMENTS = tuple(pairwise())


def has(settings: FleetSettings, **values: object) -> bool:
    return all(getattr(settings, name) == value for name, value in values.items())


def test_the_deployments_have_every_allowed_pair_and_no_other() -> None:
    assert not any(validation_errors(settings) for settings in DEPLOYMENTS)
    for dimension in DIMENSIONS:
        for choice in dimension:
            assert any(has(settings, **choice) for settings in DEPLOYMENTS), choice
    for pair in (
        {"account": "123456789012", "vpc": "new"},
        {"github_repository": "acme/models", "vpc": "default"},
        {"github_repository": "acme/models", "load_balancer": "internal"},
        {"vpc": "existing", "bake_image": True},
        {"bake_image": True, "bake_model": False},
        {"public_addresses": False, "load_balancer": "internal"},
    ):
        assert any(has(settings, **pair) for settings in DEPLOYMENTS), pair
    assert not any(has(settings, vpc="new", public_addresses=False) for settings in DEPLOYMENTS)
    assert list(islice(pairwise(), 3)) == list(DEPLOYMENTS[:3])


def with_every_choice() -> set[int]:
    """Return the numbers of a few deployments that together have every choice of every dimension."""
    missing = [choice for dimension in DIMENSIONS for choice in dimension]
    found = set[int]()
    while missing:
        number = max(range(len(DEPLOYMENTS)), key=lambda each: sum(has(DEPLOYMENTS[each], **one) for one in missing))
        found.add(number)
        missing = [choice for choice in missing if not has(DEPLOYMENTS[number], **choice)]
    return found


IN_EACH_RUN = with_every_choice()
"""Deployments in `make test`; `make test-all` has all of them, and so every pair."""


@pytest.mark.parametrize(
    "number",
    [pytest.param(each, marks=() if each in IN_EACH_RUN else pytest.mark.long) for each in range(len(DEPLOYMENTS))],
)
def test_no_pair_of_settings_needs_a_lookup(number: int, tmp_path: Path) -> None:
    assert synthesize(tmp_path, DEPLOYMENTS[number]).lookups == [], DEPLOYMENTS[number]


def test_the_settings_of_the_other_tests_need_no_lookup(production: Synthesized, everything: Synthesized) -> None:
    assert (production.lookups, everything.lookups) == ([], [])


def test_zones_are_chosen_by_number(tmp_path: Path) -> None:
    """Also where account and region are known: the CDK's own way would look their names up."""
    fleet = synthesize(tmp_path, replace(SHIPPED, account="123456789012", region="us-east-1"))
    zones = [subnet["Properties"]["AvailabilityZone"] for subnet in fleet.resources("AWS::EC2::Subnet").values()]
    assert zones == [{"Fn::Select": [number, {"Fn::GetAZs": ""}]} for number in range(3)]


def test_an_image_is_built_in_the_nodes_subnet_of_an_existing_vpc(tmp_path: Path) -> None:
    """Which may be private: it has the same way out as the nodes."""
    built = synthesize(tmp_path, replace(EVERYTHING, **IN_A_VPC, public_addresses=False, load_balancer="internal"))
    infrastructure = built.only("AWS::ImageBuilder::InfrastructureConfiguration")
    assert infrastructure["SubnetId"] == "subnet-0123456789abcdef0"


def test_without_its_ids_an_existing_vpc_is_not_synthesized() -> None:
    unknown = replace(SHIPPED, account="123456789012", region="us-east-1", vpc="default")
    with pytest.raises(ConfigurationError, match="synkti bootstrap"):
        build(App(), unknown)


def test_a_region_of_another_partition_is_refused_where_only_the_credentials_name_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CDK_DEFAULT_REGION", "us-gov-west-1")  # the CDK's command line sets it
    assert program.main() == 1
    assert "configuration: us-gov-west-1 is in GovCloud, which is not supported" in capsys.readouterr().err
