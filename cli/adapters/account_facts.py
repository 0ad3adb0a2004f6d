"""Read from the account what the settings refer to; what cannot be read has the reason instead."""

from __future__ import annotations

from typing import Any

from cli.account import Account
from cli.adapters.results import result_of
from cli.core.account_facts import AccountFacts
from cli.core.network import Vpc, parse_vpc
from stacks.settings import FleetSettings


def read_facts(account: Account, settings: FleetSettings) -> AccountFacts:
    """Read what these settings need, and no more."""
    return AccountFacts(vpc=result_of(lambda: _vpc(account.client("ec2"), settings)))


def _vpc(ec2: Any, settings: FleetSettings) -> Vpc | None:
    if settings.vpc == "new":
        return None
    vpc_id = settings.vpc_id or default_vpc(ec2)
    if vpc_id is None:
        return None
    here = [{"Name": "vpc-id", "Values": [vpc_id]}]

    def every(operation: str, key: str) -> list[dict[str, Any]]:
        return [each for page in ec2.get_paginator(operation).paginate(Filters=here) for each in page[key]]

    endpoints = every("describe_vpc_endpoints", "VpcEndpoints")
    return parse_vpc(
        vpc_id,
        every("describe_subnets", "Subnets"),
        every("describe_route_tables", "RouteTables"),
        [each["ServiceName"] for each in endpoints if each.get("State", "").lower() == "available"],
    )


def default_vpc(ec2: Any) -> str | None:
    """Return the id of the region's default VPC; None where there is none."""
    found = ec2.describe_vpcs(Filters=[{"Name": "is-default", "Values": ["true"]}])["Vpcs"]
    return str(found[0]["VpcId"]) if found else None
