"""Generate the tables of docs/cost.md from the estimate that `synkti cost` prints, with the packaged price file.

    python -m checks.cost_tables    writes them into the page

Everything between the page's marks is generated, so that its figures are the command's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from checks.pages import replace_block
from cli.adapters.price_file import packaged_prices
from cli.core.cost.estimate import estimate
from cli.core.cost.line import price
from cli.core.cost.lines import REPLACEMENT_H, hourly_prices
from cli.core.cost.prices import Item, Prices
from cli.core.cost.report import assumptions, dollars, rows, summary
from cli.core.cost.workload import DAYS, Clients, Scenario, Workload
from stacks.settings import FleetSettings

PAGE = Path(__file__).parents[1] / "docs" / "cost.md"
END = "<!-- end -->"
BILL, OPTIONS, INTERRUPTION = (
    f"<!-- {name}: made by checks/cost_tables -->" for name in ("bill", "options", "interruption")
)
_PRIVATE: dict[str, Any] = {
    "vpc": "existing",
    "subnet_ids": ("subnet-00000001", "subnet-00000002", "subnet-00000003"),
    "public_addresses": False,
}
_OPTIONS: tuple[tuple[str, dict[str, Any]], ...] = (
    ('`load_balancer = "public"`', {"load_balancer": "public"}),
    ('`load_balancer = "internal"`', {"load_balancer": "internal"}),
    ("`on_demand_base = 1`", {"on_demand_base": 1}),
    ("`bake_image = true`", {"bake_image": True}),
    ("`root_mib_per_s = 125`", {"root_mib_per_s": 125}),
    ("`nodes = 4`", {"nodes": 4}),
    ("`log_days = 365`", {"log_days": 365}),
    ("private subnets in three zones, through one NAT gateway that is there", _PRIVATE),
    ("the same with `interface_endpoints = true` instead of it", {**_PRIVATE, "interface_endpoints": True}),
)
_CONTEXT_GB, _BLOCK_GB = 1.07, 0.0084
"""A context of 8,000 tokens of Llama-3-8B, 1 GiB, in objects of 8 MiB."""


def bill(prices: Prices) -> Iterator[str]:
    """Yield the lines of the worked example: the default settings and load."""
    settings, load = FleetSettings(), Workload()
    found = estimate(settings, load, prices)
    yield from _table(("what", "calculation", "a month"), [_bold_last(row, found.total) for row in rows(found)])
    yield ""
    yield from (f"- {line}" for line in (*summary(found), *assumptions(found, load, prices, "")))


def options(prices: Prices) -> Iterator[str]:
    """Yield the lines of the table of options: how much more the same fleet costs with each."""
    # Clients stay where they are, so that a row has the price of its setting alone.
    load = replace(Workload(), clients=Clients.INTERNET)
    before = estimate(FleetSettings(), load, prices).total
    found = [(name, estimate(replace(FleetSettings(), **changed), load, prices).total) for name, changed in _OPTIONS]
    in_vpc = estimate(FleetSettings(), replace(load, clients=Clients.VPC), prices).total
    found.append(("clients in the same VPC instead of on the internet", in_vpc))
    yield from _table(("option", "a month"), [(name, _signed(total - before)) for name, total in found])


def interruption(prices: Prices) -> Iterator[str]:
    """Yield the lines of the table of what one interruption costs."""
    settings = FleetSettings()
    load = Workload()
    spot, on_demand = hourly_prices(Scenario(settings, load, settings.nodes, 0), prices)
    ten = estimate(settings, replace(load, interruptions_per_day=10.0), prices).total
    none = estimate(settings, replace(load, interruptions_per_day=0.0), prices).total
    uploaded = _CONTEXT_GB / _BLOCK_GB * prices.of(Item.OBJECT_WRITE)
    kept = _CONTEXT_GB * prices.of(Item.OBJECT) / DAYS
    moved = _CONTEXT_GB * 2 * prices.of(Item.BETWEEN_ZONES)
    yield from _table(
        ("what", "calculation", "dollars"),
        [
            (
                "a replacement, until it serves",
                f"{REPLACEMENT_H * 60:.0f} min x ${spot:.3f} an hour",
                _small(REPLACEMENT_H * spot),
            ),
            (
                "ten interruptions a day, for a month",
                "the estimate with ten, less the one with none",
                dollars(ten - none),
            ),
            (
                f"no spot capacity: {settings.on_demand_limit} nodes on demand, for an hour",
                f"{settings.on_demand_limit} x ({price(on_demand)} - ${spot:.3f})",
                _small(settings.on_demand_limit * (on_demand - spot)),
            ),
            (
                "with `kv_gib`: a context of 1 GiB to S3, for a day",
                "128 writes, and its storage",
                _small(uploaded + kept),
            ),
            ("the same to a peer in another zone", "1.07 GB x 2 directions", _small(moved)),
        ],
    )


def replace_tables(page: str) -> str:
    """Replace the page's tables. Raises ValueError where the page has lost a mark."""
    prices = packaged_prices()
    for mark, lines in ((BILL, bill(prices)), (OPTIONS, options(prices)), (INTERRUPTION, interruption(prices))):
        page = replace_block(page, mark, END, "\n".join(lines) + "\n")
    return page


def _table(headers: Sequence[str], cells: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(headers)} |"
    yield "|" + "---|" * len(headers)
    yield from (f"| {' | '.join(row)} |" for row in cells)


def _bold_last(row: Sequence[str], total: float) -> Sequence[str]:
    return ("**together**", "", f"**{dollars(total)}**") if row[0] == "together" else row


def _signed(amount: float) -> str:
    return f"{'-' if amount < 0 else '+'} {dollars(abs(amount))}"


def _small(amount: float) -> str:
    return f"${amount:.2f}" if amount >= 0.05 else f"${amount:.4f}"


def main() -> None:
    """Write the tables into the page."""
    PAGE.write_text(replace_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
