"""What to request from AWS's Price List API, and how to read its products.

A product has attributes (`usagetype` names what is billed, with a region's prefix outside us-east-1) and its prices by
amount. Where not exactly one price fits, none is taken: the price file's stays. Source: AWS's "Price List Query API",
and the shape of its GetProducts responses.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cli.core.cost.prices import Item, Prices, Tier

_UNITS = {"gibps-mo": 1 / 1_024}
"""Factors from their units to ours: throughput of volumes is sold in GiB/s, and counted in MiB/s here."""


@dataclass(frozen=True)
class Query:
    """A request for the products of a service. filters: attributes that have to be equal, beside the region."""

    service: str
    filters: Mapping[str, str]
    region_attribute: str = "regionCode"

    def parameters(self, region: str) -> dict[str, Any]:
        """Return GetProducts' parameters."""
        wanted = {**self.filters, self.region_attribute: region}
        filters = [{"Type": "TERM_MATCH", "Field": name, "Value": value} for name, value in wanted.items()]
        return {"ServiceCode": self.service, "Filters": filters, "FormatVersion": "aws_v1"}


_NAT = Query("AmazonEC2", {"productFamily": "NAT Gateway"})
_ENDPOINTS = Query("AmazonVPC", {"productFamily": "VpcEndpoint"})
_BALANCER = Query("AWSELB", {"productFamily": "Load Balancer-Network"})
_OUT = Query("AWSDataTransfer", {"transferType": "AWS Outbound"}, "fromRegionCode")

ITEMS: Mapping[Item, tuple[Query, str]] = {
    Item.VOLUME: (Query("AmazonEC2", {"productFamily": "Storage", "volumeApiName": "gp3"}), "EBS:VolumeUsage.gp3"),
    Item.VOLUME_THROUGHPUT: (
        Query("AmazonEC2", {"productFamily": "Provisioned Throughput", "volumeApiName": "gp3"}),
        "EBS:VolumeP-Throughput.gp3",
    ),
    Item.PUBLIC_ADDRESS: (Query("AmazonVPC", {"group": "VPCPublicIPv4Address"}), "PublicIPv4:InUseAddress"),
    Item.BETWEEN_ZONES: (
        Query("AWSDataTransfer", {"transferType": "IntraRegion"}, "fromRegionCode"),
        "DataTransfer-Regional-Bytes",
    ),
    Item.NAT_GATEWAY: (_NAT, "NatGateway-Hours"),
    Item.NAT_GATEWAY_DATA: (_NAT, "NatGateway-Bytes"),
    Item.ENDPOINT: (_ENDPOINTS, "VpcEndpoint-Hours"),
    Item.ENDPOINT_DATA: (_ENDPOINTS, "VpcEndpoint-Bytes"),
    Item.BALANCER: (_BALANCER, "LoadBalancerUsage"),
    Item.BALANCER_UNIT: (_BALANCER, "LCUUsage"),
    Item.ALARM: (Query("AmazonCloudWatch", {"productFamily": "Alarm"}), "CW:AlarmMonitorUsage"),
    Item.METRIC: (Query("AmazonCloudWatch", {"productFamily": "Metric"}), "CW:MetricMonitorUsage"),
    Item.LOG: (Query("AmazonCloudWatch", {"productFamily": "Data Payload"}), "DataProcessing-Bytes"),
    Item.OBJECT: (Query("AmazonS3", {"productFamily": "Storage", "volumeType": "Standard"}), "TimedStorage-ByteHrs"),
}
"""The items that are requested, and how their usage types end; what is not here costs cents."""

INTERNET: tuple[Query, str] = (_OUT, "DataTransfer-Out-Bytes")


def instance_query(instance_type: str) -> Query:
    """Return the request for an instance type's price on demand, for Linux without further licences."""
    return Query(
        "AmazonEC2",
        {
            "instanceType": instance_type,
            "operatingSystem": "Linux",
            "tenancy": "Shared",
            "preInstalledSw": "NA",
            "capacitystatus": "Used",
            "marketoption": "OnDemand",
        },
    )


@dataclass(frozen=True)
class Product:
    """A product of the price list. tiers: its prices on demand, the smallest amount first; unit: of them."""

    usage: str
    unit: str
    tiers: tuple[Tier, ...]


def read_product(document: str) -> Product | None:
    """Parse an element of a response's PriceList; None where it is not of the documented shape, or is not priced."""
    try:
        parsed = json.loads(document)
        (term,) = parsed["terms"]["OnDemand"].values()
        rates = list(term["priceDimensions"].values())
        tiers = sorted((_tier(rate) for rate in rates), key=lambda tier: tier.up_to)
        unit = str(rates[0]["unit"])
        usage = str(parsed["product"]["attributes"]["usagetype"])
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
        return None
    return Product(usage, unit, tuple(tiers)) if tiers else None


def _tier(rate: Mapping[str, Any]) -> Tier:
    dollars, up_to = float(rate["pricePerUnit"]["USD"]), float(rate["endRange"])
    if not 0 <= dollars < math.inf or not up_to > 0:
        raise ValueError("no price")
    return Tier(up_to, dollars)


def of_usage(products: Iterable[Product], usage: str) -> Product | None:
    """Return the product of a usage type, whatever its region's prefix; None where there is none, or several."""
    found = {each for each in products if each.usage == usage or each.usage.endswith(f"-{usage}")}
    return found.pop() if len(found) == 1 else None


def first_price(product: Product | None) -> float | None:
    """Return the price of the first unit that is not free, in the unit of the items; None where there is none."""
    if product is None:
        return None
    paid = [tier.dollars for tier in product.tiers if tier.dollars > 0]
    return paid[0] * _UNITS.get(product.unit.lower(), 1.0) if paid else None


def instance_price(products: Sequence[Product]) -> float | None:
    """Return an instance type's price an hour; None where there are several, or none."""
    found = {each.tiers[0].dollars for each in products if each.tiers[0].dollars > 0}
    return found.pop() if len(found) == 1 else None


@dataclass(frozen=True)
class Listed:
    """What the Price List API had. missing: what it was requested for, and had no single price of."""

    on_demand: Mapping[str, float]
    items: Mapping[Item, float]
    internet: tuple[Tier, ...]
    missing: tuple[str, ...]


def with_listed(prices: Prices, region: str, listed: Listed) -> Prices:
    """Return the prices of a region, in which what the API had replaces what the file has.

    Instance types that the API has no price of are left out where the file is of another region.
    """
    same = region == prices.region
    on_demand = {**(prices.on_demand if same else {}), **listed.on_demand}
    kept = f"; of {prices.region}, {prices.origin}: {', '.join(listed.missing)}, and what costs cents"
    return replace(
        prices,
        region=region,
        on_demand=on_demand,
        items={**prices.items, **listed.items},
        internet=listed.internet or prices.internet,
        origin="today's, of AWS's Price List API"
        + (kept if listed.missing else "; what costs cents by the price file"),
    )
