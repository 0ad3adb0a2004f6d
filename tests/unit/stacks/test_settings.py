"""The settings of a deployment: the file, the command line above it, and what is wrong with either."""

from __future__ import annotations

import re
import tomllib
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from node_agent.contract.errors import ConfigurationError
from stacks.settings import CONTEXT_ONLY, SETTINGS_FILE, FleetSettings, from_values, load, missing_ids, require_ids

SHIPPED = Path(__file__).parents[3] / SETTINGS_FILE
ARN = "arn:aws:acm:us-east-1:123456789012:certificate/0a1b"
ZONE = "Z0123456789ABCDEFGHIJ"
BALANCED = {"load_balancer": "internal", "client_cidrs": "10.0.0.0/8"}
PROVIDER = "arn:aws:iam::123456789012:oidc-provider/token.actions.githubusercontent.com"


PLACE = {"account": "123456789012", "region": "us-east-1"}
PRIVATE = {
    **PLACE,
    "vpc": "existing",
    "vpc_id": "vpc-0123456789abcdef0",
    "public_addresses": False,
}


def nothing(_: str) -> None:
    return None


def faults(**held: Any) -> tuple[str, ...]:
    with pytest.raises(ConfigurationError) as caught:
        from_values(held, nothing)
    return caught.value.faults


def test_the_shipped_file_names_every_setting_with_its_default() -> None:
    text = "\n".join(re.sub(r"^# (?=[a-z0-9_]+ = )", "", line) for line in SHIPPED.read_text().splitlines())
    named = tomllib.loads(text)
    assert set(named) == {each.name for each in fields(FleetSettings)} - CONTEXT_ONLY
    assert from_values(named, nothing) == FleetSettings()


def test_the_shipped_file_changes_nothing() -> None:
    assert load(SHIPPED.parent, nothing) == FleetSettings()


def test_the_command_line_takes_precedence_over_the_file(tmp_path: Path) -> None:
    (tmp_path / SETTINGS_FILE).write_text('nodes = 5\nclient_cidrs = ["10.0.0.0/8"]\ndrills = true\n')
    assert load(tmp_path, nothing) == FleetSettings(nodes=5, client_cidrs=("10.0.0.0/8",), drills=True)
    above = {"nodes": "7", "client_cidrs": "192.0.2.0/24, 198.51.100.0/24", "drills": "false"}
    expected = FleetSettings(nodes=7, client_cidrs=("192.0.2.0/24", "198.51.100.0/24"))
    assert load(tmp_path, above.get) == expected


def test_without_a_file_and_with_another_one(tmp_path: Path) -> None:
    assert load(tmp_path, nothing) == FleetSettings()
    (tmp_path / SETTINGS_FILE).write_text("nodes = 5\n")
    (tmp_path / "staging.toml").write_text("nodes = 1\n")
    assert load(tmp_path, {"settings_file": "staging.toml"}.get).nodes == 1
    assert load(tmp_path, {"settings_file": ""}.get) == FleetSettings()
    with pytest.raises(ConfigurationError, match="no such file"):
        load(tmp_path, {"settings_file": "nowhere.toml"}.get)


def test_a_file_that_is_no_toml_is_named(tmp_path: Path) -> None:
    (tmp_path / SETTINGS_FILE).write_text("nodes: 5\n")
    with pytest.raises(ConfigurationError, match=r"synkti\.toml cannot be read: .*line 1"):
        load(tmp_path, nothing)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("cluster", "Bad Name"),
        ("account", "12"),
        ("region", "mars"),
        ("region", "us-gov-west-1"),
        ("region", "cn-north-1"),
        ("region", "eusc-de-east-1"),
        ("nodes", 0),
        ("nodes", "x"),
        ("nodes", 2.5),
        ("nodes", True),
        ("instance_types", []),
        ("instance_types", "large"),
        ("instance_types", ["g5.xlarge", "g5.xlarge"]),
        ("zones", 1),
        ("root_gib", 1),
        ("scale_target", -1),
        ("refresh_healthy_percent", 101),
        ("vpc", "mine"),
        ("vpc_id", "vpc-x"),
        ("subnet_ids", "subnet-x"),
        ("route_table_ids", ["rtb-01234567", "rtb-01234567"]),
        ("vpc_cidr", "8.0.0.0/16"),
        ("vpc_cidr", "10.0.0.0/28"),
        ("client_cidrs", "everywhere"),
        ("client_cidrs", "10.0.0.1/8"),
        ("metrics_cidrs", "8.8.0.0/16"),
        ("metrics_cidrs", "0.0.0.0/0"),
        ("load_balancer", "both"),
        ("certificate_arn", "mine"),
        ("domain", "example"),
        ("domain", "*.example.com"),
        ("domain", "https://llm.example.com"),
        ("domain", "LLM.example.com"),
        ("domain", "-a.example.com"),
        ("domain", "a" * 64 + ".example.com"),
        ("hosted_zone_id", "example.com"),
        ("model", "../secrets"),
        ("model_sha256", "abc"),
        ("model_load", "guess"),
        ("engine_args", "--served-model-name 'a b'"),
        ("ready_within_s", 1),
        ("ready_within_s", 7_141),  # the launch hook would be longer than Auto Scaling accepts
        ("image_id", "ubuntu"),
        ("drills", "maybe"),
        ("alarm_email", "me"),
        ("budget_usd", -1),
        ("budget_usd", 99.5),
        ("budget_scope", "team"),
        ("log_days", 8),
        ("github_repository", "just-a-name"),
        ("github_owner_id", "acme"),
        ("github_repository_id", "0"),
        ("github_branch", "no spaces"),
        ("github_oidc_provider", "arn:aws:iam::123456789012:role/x"),
    ],
)
def test_a_wrong_value_is_named(name: str, value: object) -> None:
    (fault,) = faults(**{name: value})
    assert fault.startswith(f"{name}={value!r}: ")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"nodes": 2, "on_demand_base": 3}, "on_demand_base=3"),
        ({"scale_target": 8, "min_nodes": 5, "max_nodes": 4}, "min_nodes=5"),
        ({"vpc": "existing", "account": "1" * 12, "region": "us-east-1"}, "vpc_id has to say"),
        ({"vpc_id": "vpc-0123456789abcdef0"}, "set vpc=existing"),
        ({"subnet_ids": ["subnet-01234567"]}, "set vpc=existing"),
        ({"vpc": "default"}, "account and region"),
        ({"public_addresses": False}, "public_addresses=false"),
        ({"interface_endpoints": True}, "interface_endpoints=true"),
        ({**PRIVATE, "load_balancer": "public", "client_cidrs": "10.0.0.0/8"}, "makes these private"),
        ({"load_balancer": "public"}, "client_cidrs has to say"),
        ({"certificate_arn": ARN}, "no load balancer"),
        ({"budget_usd": 100}, "alarm_email has to say"),
        ({"budget_usd": 100, "alarm_email": "a@b.example", "region": "eu-north-1"}, "no budgets in eu-north-1"),
        ({"domain": "llm.example.com"}, "no load balancer that it would name"),
        ({**BALANCED, "certificate_arn": ARN}, "domain has to be a name in the certificate"),
        ({**BALANCED, "hosted_zone_id": ZONE}, "domain has to say for which name"),
        ({**BALANCED, "domain": "llm.example.com"}, "aws route53 list-hosted-zones"),
        ({"bake_model": True, "model_sha256": "a" * 64}, "bake_image=true"),
        ({"bake_model": True, "bake_image": True}, "model_sha256 has to say"),
        ({"bake_image": True, "image_id": "ami-0123456789abcdef0"}, "choose"),
        (
            {"bake_image": True, "bake_model": True, "model_sha256": "a" * 64, "model_load": "stream"},
            "model_load=stream",
        ),
        ({"github_oidc_provider": PROVIDER}, "github_repository"),
        ({"github_owner_id": "1", "github_repository_id": 2}, "whose they are"),
        ({**PLACE, "github_repository": "acme/models", "github_owner_id": 1}, "set both or none"),
        ({"github_repository": "acme/models"}, "account and region"),
        ({"local": True}, "-c local="),
        ({"node": 3}, "is 'nodes' meant?"),
        ({"colour": "blue"}, "unknown setting 'colour'"),
    ],
)
def test_incompatible_settings_are_a_fault_that_names_them(given: dict[str, Any], expected: str) -> None:
    (fault,) = faults(**given)
    assert expected in fault


def test_ids_of_an_existing_vpc_are_needed_for_a_synthesis() -> None:
    existing = from_values(PRIVATE, nothing)
    assert missing_ids(existing) == ("subnet_ids", "route_table_ids")
    assert missing_ids(replace(existing, gateway_endpoints=False)) == ("subnet_ids",)
    default = replace(existing, vpc="default", vpc_id="", public_addresses=True)
    assert missing_ids(default) == ("vpc_id", "subnet_ids", "route_table_ids")
    with pytest.raises(
        ConfigurationError, match="vpc=default: vpc_id, subnet_ids, route_table_ids not set; run synkti"
    ):
        require_ids(default)
    require_ids(replace(existing, subnet_ids=("subnet-01234567",), route_table_ids=("rtb-01234567",)))
    require_ids(FleetSettings())


def test_all_faults_are_reported_together() -> None:
    assert len(faults(nodes="x", drills="y", root_gib=1, colour="blue", certificate_arn=ARN)) == 5


def test_valid_settings_are_accepted() -> None:
    held = from_values(
        {
            "account": "123456789012",
            "region": "eu-central-1",
            "vpc": "existing",
            "vpc_id": "vpc-0123456789abcdef0",
            "public_addresses": False,
            "load_balancer": "internal",
            "client_cidrs": ["10.0.0.0/8"],
            "certificate_arn": ARN,
            "domain": "llm.example.com",
            "engine_args": "--max-model-len 8192",
            "github_repository": "acme/models",
            "scale_target": 12,
        },
        nothing,
    )
    assert held.engine_args == ("--max-model-len", "8192")
    assert (held.is_autoscaled, held.max_capacity) == (True, 10)
    assert replace(held, scale_target=0, nodes=4).max_capacity == 8


def test_only_the_command_line_selects_a_local_deployment() -> None:
    assert from_values({}, {"local": "true"}.get).local is True
