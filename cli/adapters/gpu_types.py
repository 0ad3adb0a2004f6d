"""Ask EC2 about instance types: their description, where they are offered, their spot prices."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from node_agent.core.sizing.gpus import InstanceGpus, Unusable, describe_gpus

_LINUX = ("Linux/UNIX", "Linux/UNIX (Amazon VPC)")


def describe_types(ec2: Any, types: Sequence[str]) -> list[dict[str, Any]]:
    """Return EC2's descriptions of those of the types that the region offers. Raises BotoCoreError, ClientError."""
    pages = ec2.get_paginator("describe_instance_types").paginate(
        Filters=[{"Name": "instance-type", "Values": list(types)}]
    )
    return [each for page in pages for each in page["InstanceTypes"]]


def gpus_of(described: Sequence[dict[str, Any]]) -> dict[str, InstanceGpus | Unusable]:
    """Return the GPUs by instance type."""
    return {str(each["InstanceType"]): describe_gpus(each) for each in described}


def offered_zones(ec2: Any, types: Sequence[str]) -> dict[str, frozenset[str]]:
    """Return the zones that offer each type; a type that no zone offers is absent. Raises as `describe_types`."""
    pages = ec2.get_paginator("describe_instance_type_offerings").paginate(
        LocationType="availability-zone", Filters=[{"Name": "instance-type", "Values": list(types)}]
    )
    found: dict[str, set[str]] = {}
    for page in pages:
        for each in page["InstanceTypeOfferings"]:
            found.setdefault(each["InstanceType"], set()).add(each["Location"])
    return {each: frozenset(zones) for each, zones in found.items()}


def spot_prices(ec2: Any, types: Sequence[str], now: datetime) -> dict[str, float]:
    """Return the price of each type in its cheapest zone, in dollars an hour. Raises as `describe_types`."""
    pages = ec2.get_paginator("describe_spot_price_history").paginate(
        InstanceTypes=list(types), ProductDescriptions=list(_LINUX), StartTime=now
    )
    found: dict[str, float] = {}
    for page in pages:
        for each in page["SpotPriceHistory"]:
            price = float(each["SpotPrice"])
            found[each["InstanceType"]] = min(price, found.get(each["InstanceType"], price))
    return found
