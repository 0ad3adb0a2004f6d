"""Prices of what a deployment uses, and the parser of the dated files that have them (`cli/adapters/price_file`).

All prices are in dollars, without taxes, discounts and free tiers: a free tier belongs to the whole account.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any


class Item(Enum):
    """What AWS bills, apart from instances and traffic to the internet. The values are the names in the file."""

    VOLUME = "volume_gb_month"
    VOLUME_THROUGHPUT = "volume_mib_per_s_month"
    SNAPSHOT = "snapshot_gb_month"
    PUBLIC_ADDRESS = "public_address_hour"
    BETWEEN_ZONES = "between_zones_gb"
    """In each direction: a transfer is paid for by its sender and by its receiver."""

    NAT_GATEWAY = "nat_gateway_hour"
    NAT_GATEWAY_DATA = "nat_gateway_gb"
    ENDPOINT = "endpoint_hour"
    ENDPOINT_DATA = "endpoint_gb"
    BALANCER = "balancer_hour"
    BALANCER_UNIT = "balancer_unit_hour"
    ALARM = "alarm_month"
    """Of one metric: an alarm on a sum of two metrics is billed twice."""

    METRIC = "metric_month"
    DASHBOARD = "dashboard_month"
    METRIC_REQUEST = "metric_request"
    LOG = "log_gb"
    LOG_STORAGE = "log_storage_gb_month"
    OBJECT = "object_gb_month"
    OBJECT_WRITE = "object_write"
    OBJECT_READ = "object_read"
    SECRET = "secret_month"  # noqa: S105 # the name of a price
    SECRET_REQUEST = "secret_request"  # noqa: S105 # the name of a price
    TABLE_WRITE = "table_write"
    TABLE_READ = "table_read"
    FUNCTION_REQUEST = "function_request"
    FUNCTION_TIME = "function_gb_second"
    TRACE = "trace"


@dataclass(frozen=True)
class Tier:
    """A price that applies up to an amount in a month. up_to: in GB; infinite for the last one."""

    up_to: float
    dollars: float


@dataclass(frozen=True)
class Prices:
    """The prices of a region."""

    region: str
    on_demand: Mapping[str, float]
    """Dollars an hour, by instance type."""

    items: Mapping[Item, float]
    internet: tuple[Tier, ...]
    """Traffic to the internet, the smallest amount first."""

    origin: str
    """Where the prices come from and of which day they are, as a phrase."""

    spot: Mapping[str, float] = field(default_factory=dict)
    """Dollars an hour in the cheapest zone, of the types whose price EC2 reported."""

    def of(self, item: Item) -> float:
        """Return the price of one unit of the item."""
        return self.items[item]

    def internet_dollars(self, gb: float) -> float:
        """Return the price of so many GB to the internet in a month."""
        total, below = 0.0, 0.0
        for tier in self.internet:
            total += max(0.0, min(gb, tier.up_to) - below) * tier.dollars
            below = tier.up_to
        return total


def parse_prices(document: Any) -> Prices:
    """Parse a price file's document. Raises ValueError where a price is missing or is none."""
    try:
        instances, services = document["instances"], document["services"]
        on_demand = {str(name): _price(name, value) for name, value in instances["dollars_per_hour"].items()}
        items = {each: _price(each.value, services["dollars"][each.value]) for each in Item}
        internet = tuple(_tier(pair) for pair in services["internet_gb"])
        origin = f"instances of {instances['dated']}, everything else of {services['dated']}"
        region = str(document["region"])
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"the price file lacks {error}") from error
    if not internet or internet[-1].up_to != math.inf:
        raise ValueError("the price file's last tier of internet_gb has to have no limit")
    return Prices(region, on_demand, items, internet, f"the price file: {origin}")


def _tier(pair: Sequence[Any]) -> Tier:
    up_to, dollars = pair
    return Tier(math.inf if up_to is None else _price("internet_gb", up_to), _price("internet_gb", dollars))


def _price(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise ValueError(f"the price file's {name} is no price: {value!r}")
    return float(value)
