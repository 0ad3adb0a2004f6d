"""The hosted zone of a domain, as Route 53 describes it and `synkti doctor` judges it."""

from __future__ import annotations

from dataclasses import replace

import boto3
import pytest

from cli.account import Account
from cli.adapters.account_facts import read_facts
from cli.core.account_facts import AccountFacts
from cli.core.doctor_account import account_findings
from cli.core.doctor_inputs import Verdict
from cli.core.domain import HostedZone, domain_problem
from cli.core.result import Unavailable
from stacks.settings import FleetSettings
from tests.unit.cli.memory_cloudformation import MemoryCloudFormation
from tests.unit.cli.test_doctor import WELL

ZONE_ID = "Z0123456789ABCDEFGHIJ"
NAMED = FleetSettings(
    load_balancer="public", client_cidrs=("203.0.113.0/24",), domain="llm.example.com", hosted_zone_id=ZONE_ID
)


@pytest.mark.parametrize(
    ("zone", "problem"),
    [
        (HostedZone("example.com", is_private=False), ""),
        (HostedZone("llm.example.com", is_private=False), ""),
        (HostedZone("ample.com", is_private=False), "is not a name of the hosted zone ample.com"),
        (HostedZone("example.com", is_private=True), "is private"),
        (None, f"no hosted zone {ZONE_ID}"),
    ],
)
def test_a_zone_has_to_have_the_name(zone: HostedZone | None, problem: str) -> None:
    found, advice = domain_problem("llm.example.com", ZONE_ID, zone)
    assert problem in found
    assert bool(found) == bool(problem) == ("list-hosted-zones" in advice)


def test_a_zone_is_read_from_route_53(aws: MemoryCloudFormation) -> None:
    made = boto3.client("route53").create_hosted_zone(Name="example.com", CallerReference="1")["HostedZone"]["Id"]
    settings = replace(NAMED, hosted_zone_id=made.removeprefix("/hostedzone/"))
    assert read_facts(Account(), settings).zone == HostedZone("example.com", is_private=False)
    assert read_facts(Account(), NAMED).zone is None
    assert read_facts(Account(), FleetSettings()).zone is None


@pytest.mark.parametrize(
    ("zone", "verdict"),
    [
        (HostedZone("example.com", is_private=False), Verdict.OK),
        (None, Verdict.FAULT),
        (Unavailable("not allowed"), Verdict.UNKNOWN),
    ],
)
def test_doctor_judges_the_zone(zone: HostedZone | Unavailable | None, verdict: Verdict) -> None:
    facts: AccountFacts = replace(WELL.facts, zone=zone)
    findings = {each.check: each for each in account_findings(replace(WELL, settings=NAMED, facts=facts))}
    assert findings["domain"].verdict is verdict
    assert "domain" not in {each.check for each in account_findings(WELL)}
