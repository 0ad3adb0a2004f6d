"""Read the dated prices that are part of the packages: of AWS's services here, of instances with the agent.

The agent has the instances' prices too, since its page shows what a fleet costs.
"""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

from cli.core.cost.prices import Prices, parse_prices

FILE = "prices.json"
INSTANCES_FILE = "instance_prices.json"


def packaged_prices() -> Prices:
    """Return the prices of the files. Raises ValueError where one is damaged."""
    return parse_prices(packaged_document())


def packaged_document() -> dict[str, Any]:
    """Return what the files have, as one document. Raises ValueError where one is no JSON."""
    services = json.loads(files("cli").joinpath(FILE).read_text(encoding="utf-8"))
    instances = json.loads(files("node_agent.contract").joinpath(INSTANCES_FILE).read_text(encoding="utf-8"))
    return {**services, "instances": instances}
