"""Fair shares on virtual time: Jain's index under a tenant that asks ten times as much, and how it is computed."""

from __future__ import annotations

import pytest

from sim.fair_sharing import CAPACITY, FAIR, FIFO, GOAL, Tenant, cases, fair_shares, jains_index, run_tenants


@pytest.mark.parametrize("case", list(cases()))
@pytest.mark.parametrize("seed", [1, 2])
def test_tenants_are_served_their_fair_shares_where_one_asks_ten_times_as_much(case: str, seed: int) -> None:
    tenants = cases()[case]
    assert run_tenants(tenants, FAIR, 300.0, seed).jain >= GOAL
    assert run_tenants(tenants, FIFO, 300.0, seed).jain < 0.9


def test_a_tenant_that_is_alone_has_the_whole_queue() -> None:
    outcome = run_tenants([Tenant("only", 2 * CAPACITY)], FAIR, 60.0, 1)
    assert outcome.served["only"] >= 0.9 * CAPACITY * 60.0


def test_shares_are_max_min_fair() -> None:
    assert fair_shares({"a": 10.0, "b": 100.0, "c": 100.0}, 90.0) == {"a": 10.0, "b": 40.0, "c": 40.0}
    assert fair_shares({"a": 10.0, "b": 20.0}, 90.0) == {"a": 10.0, "b": 20.0}


def test_the_index_is_one_for_equal_values_and_falls_to_one_of_n() -> None:
    assert jains_index([3.0, 3.0, 3.0]) == pytest.approx(1.0)
    assert jains_index([0.0, 0.0, 5.0, 0.0]) == pytest.approx(0.25)
    assert jains_index([0.0, 0.0]) == 1.0
