"""Write an estimate as the rows of a table, as lines, and as a document for `--json`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from cli.core.cost.estimate import Estimate
from cli.core.cost.line import number
from cli.core.cost.prices import Prices
from cli.core.cost.workload import Workload

HEADERS = ("WHAT", "CALCULATION", "A MONTH")


def dollars(amount: float) -> str:
    """Write an amount of a bill: cents below $100, whole dollars from there on."""
    return f"${amount:,.2f}" if amount < 100 else f"${amount:,.0f}"


def rows(found: Estimate) -> list[tuple[str, str, str]]:
    """Return a row for each line, and one for their sum."""
    return [
        *((line.what, line.calculation, dollars(line.dollars)) for line in found.lines),
        ("together", "", dollars(found.total)),
    ]


def summary(found: Estimate) -> list[str]:
    """Return the estimate's other figures, a line each."""
    per_million = found.per_million_tokens
    saved = 1 - found.total / found.on_demand
    return [
        *([] if per_million is None else [f"a million generated tokens: ${per_million:.2f}"]),
        f"on demand only: {dollars(found.on_demand)}" + (f"; spot saves {saved:.0%}" if saved > 0.005 else ""),
        f"at most, with the dearest type and without spot capacity: {dollars(found.most)}",
        f"after synkti stop: {dollars(found.stopped)}",
    ]


def assumptions(found: Estimate, load: Workload, prices: Prices, region: str) -> list[str]:
    """Return what the estimate assumes, a line each.

    Args:
        found: the estimate.
        load: that was assumed.
        prices: that were used.
        region: of the deployment, "" where it is not known.

    Returns:
        The lines.
    """
    lines = [
        f"assumed: {number(found.nodes)} nodes, {load.tokens_per_s:,.0f} generated tokens/s over all of them, "
        f"{load.answer_tokens:,.0f} for each of {load.prompt_tokens:,.0f} in its prompt; clients "
        + ("on the internet" if found.clients.value == "internet" else "in the VPC")
        + f"; interruptions a day: {number(load.interruptions_per_day)}; a model of {number(load.model_gb)} GB",
        f"prices of {prices.region} ({prices.origin}), without taxes, discounts and free tiers",
    ]
    if not prices.spot:
        lines.append(
            f"spot prices are assumed to be {load.spot_share:.0%} of those on demand; they change by the hour, and "
            "with AWS credentials EC2's own are used"
        )
    if region and region != prices.region:
        lines.append(f"the fleet is for {region}, where prices differ: AWS credentials let the command use its prices")
    return lines


def document(found: Estimate, load: Workload, prices: Prices, region: str) -> dict[str, Any]:
    """Return the estimate for `--json`; amounts are dollars a month. Arguments as `assumptions`."""
    per_million = found.per_million_tokens
    return {
        "region": region or None,
        "prices": {"region": prices.region, "origin": prices.origin, "spot": dict(prices.spot)},
        "assumed": {**asdict(load), "clients": found.clients.value, "nodes": found.nodes},
        "lines": [
            {"what": line.what, "calculation": line.calculation, "dollars": round(line.dollars, 4)}
            for line in found.lines
        ],
        "total": round(found.total, 2),
        "on_demand": round(found.on_demand, 2),
        "most": round(found.most, 2),
        "stopped": round(found.stopped, 2),
        "per_million_tokens": None if per_million is None else round(per_million, 4),
    }
