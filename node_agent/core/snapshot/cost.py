"""Sum what the nodes of a fleet cost an hour, as far as prices are known.

The prices are AWS's for on-demand instances, from a dated file. A node does not know whether it is a spot instance, nor
the spot price of the hour: the sum is what the same instances would cost on demand, which spot instances stay below.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class InstancePrices:
    """Prices of instance types. dated: the day of the list; region: the one that it is of."""

    region: str = ""
    dated: str = ""
    dollars_per_hour: Mapping[str, float] = field(default_factory=dict)


NO_PRICES = InstancePrices()


def parse_prices(value: object) -> InstancePrices:
    """Parse the prices of the package's file. Raises ValueError."""
    if not isinstance(value, Mapping):
        raise ValueError("prices are an object")
    region, dated, prices = value.get("region"), value.get("dated"), value.get("dollars_per_hour")
    if not isinstance(region, str) or not isinstance(dated, str) or not isinstance(prices, Mapping):
        raise ValueError("prices have a region, a date and dollars_per_hour")
    for instance_type, price in prices.items():
        if not isinstance(price, int | float) or not math.isfinite(price) or price < 0:
            raise ValueError(f"the price of {instance_type} is no amount")
    return InstancePrices(region, dated, {str(name): float(price) for name, price in prices.items()})


def cost_to_json(instance_types: Iterable[str], prices: InstancePrices) -> dict[str, Any]:
    """Sum the prices. instance_types: of the nodes that run, one for each.

    Returns:
        A value for JSON: `dollars_per_hour` is null where no type has a price, `unpriced` names those without one.
    """
    counts = Counter(instance_types)
    known = {name: count for name, count in counts.items() if name in prices.dollars_per_hour}
    total = sum(prices.dollars_per_hour[name] * count for name, count in known.items())
    return {
        "dollars_per_hour": round(total, 4) if known else None,
        "unpriced": sorted(counts.keys() - known.keys()),
        "region": prices.region,
        "dated": prices.dated,
    }
