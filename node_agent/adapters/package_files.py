"""Read the files that are part of this package: those of the node's page, and the prices of instance types."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path

from node_agent.core.http.static_file import StaticFile
from node_agent.core.openai.routes import PAGE_FILES
from node_agent.core.snapshot.cost import NO_PRICES, InstancePrices, parse_prices

_PACKAGE = Path(__file__).resolve().parents[1]
_log = logging.getLogger(__name__)


def read_page(folder: Path = _PACKAGE / "ui") -> Mapping[str, StaticFile]:
    """Return the files of the page by their routes; a file that is missing has none, and is logged."""
    found = {}
    for route, name in PAGE_FILES.items():
        try:
            found[route] = StaticFile(name, (folder / name).read_bytes())
        except OSError as error:
            _log.warning("the page lacks a file: %s", error)
    return found


def read_instance_prices(file: Path = _PACKAGE / "contract" / "instance_prices.json") -> InstancePrices:
    """Return the prices of the package's dated file; none, and a line in the log, where it cannot be used."""
    try:
        return parse_prices(json.loads(file.read_bytes()))
    except (OSError, ValueError) as error:
        _log.warning("the prices of instance types cannot be used: %s", error)
        return NO_PRICES
