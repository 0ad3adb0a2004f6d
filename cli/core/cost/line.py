"""One line of an estimate, with its calculation in words."""

from __future__ import annotations

from dataclasses import dataclass

from cli.core.cost.prices import Item, Prices


@dataclass(frozen=True)
class Line:
    """What is paid for. calculation: with the unit price; dollars: a month."""

    what: str
    calculation: str
    dollars: float


def priced(what: str, amount: float, unit: str, item: Item, prices: Prices, *, each: float = 1.0) -> Line:
    """Return the line of an amount of an item.

    Args:
        what: is paid for.
        amount: how many of them.
        unit: what follows the amount in the calculation: ` GB`, or ` x 730 h`.
        item: of the price.
        prices: of the region.
        each: of the item for each of the amount, 730 where the unit is ` x 730 h`.

    Returns:
        The line.
    """
    dollars = amount * each * prices.of(item)
    return Line(what, f"{number(amount)}{unit} x {price(prices.of(item))}", dollars)


def number(value: float) -> str:
    """Write an amount: whole from 10 on, and with one decimal below."""
    if value >= 10 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 0.95 else f"{value:.2g}"


def price(dollars: float) -> str:
    """Write a unit price with all of its digits."""
    text = f"{dollars:.10f}".rstrip("0")
    whole, _, decimals = text.partition(".")
    return f"${whole}.{decimals:0<2}"
