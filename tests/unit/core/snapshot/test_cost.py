"""What a fleet costs an hour: a sum of known prices, null where none is known, and the types without one by name."""

from __future__ import annotations

import pytest

from node_agent.core.snapshot.cost import NO_PRICES, InstancePrices, cost_to_json, parse_prices

PRICES = InstancePrices("us-east-1", "2026-07-20", {"g5.xlarge": 1.006, "g6.xlarge": 0.8048})


def test_the_sum_of_the_nodes_prices() -> None:
    cost = cost_to_json(["g5.xlarge", "g5.xlarge", "g6.xlarge"], PRICES)
    assert cost == {"dollars_per_hour": 2.8168, "unpriced": [], "region": "us-east-1", "dated": "2026-07-20"}


def test_a_type_without_a_price_is_named_and_not_guessed() -> None:
    cost = cost_to_json(["g5.xlarge", "x9.huge", "x9.huge"], PRICES)
    assert (cost["dollars_per_hour"], cost["unpriced"]) == (1.006, ["x9.huge"])


def test_without_any_price_there_is_no_sum() -> None:
    assert cost_to_json(["x9.huge"], PRICES)["dollars_per_hour"] is None
    assert cost_to_json(["g5.xlarge"], NO_PRICES)["dollars_per_hour"] is None


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        {},
        {"region": "r", "dated": "d"},
        {"region": 1, "dated": "d", "dollars_per_hour": {}},
        {"region": "r", "dated": "d", "dollars_per_hour": {"t": "1"}},
        {"region": "r", "dated": "d", "dollars_per_hour": {"t": -1}},
        {"region": "r", "dated": "d", "dollars_per_hour": {"t": float("nan")}},
    ],
)
def test_a_damaged_file_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="price"):
        parse_prices(value)
