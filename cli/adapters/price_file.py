"""Read the dated price file that is part of the package."""

from __future__ import annotations

import json
from importlib.resources import files

from cli.core.cost.prices import Prices, parse_prices

FILE = "prices.json"


def packaged_prices() -> Prices:
    """Return the prices of the file. Raises ValueError where it is damaged."""
    return parse_prices(json.loads(files("cli").joinpath(FILE).read_text(encoding="utf-8")))
