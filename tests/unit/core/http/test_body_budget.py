"""Test the body budget: which body is aborted when there is no room."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from node_agent.core.http.body_budget import IDLE_S, SMALL_BYTES, BodyBudget, HeldBody

MIB = 1024 * 1024


def body(address: str = "a") -> HeldBody:
    return HeldBody(address, abort=lambda: None)


def test_small_bodies_cost_nothing() -> None:
    budget = BodyBudget(max_bytes=0)
    assert budget.grow(body(), SMALL_BYTES, 0.0) == []
    assert budget.held_bytes == 0


def test_of_one_address_the_body_that_grows_is_refused() -> None:
    budget, first, second = BodyBudget(2 * MIB), body(), body()
    assert budget.grow(first, 2 * MIB, 0.0) == []
    assert budget.grow(second, MIB, 0.5) is None
    assert budget.held_bytes == 2 * MIB


def test_an_idle_body_is_dropped_first_from_any_address() -> None:
    budget, busy, quiet, late = BodyBudget(3 * MIB), body(), body(), body()
    budget.grow(quiet, MIB, 0.0)
    budget.grow(busy, 2 * MIB, IDLE_S)
    assert budget.grow(late, MIB, IDLE_S) == [quiet]
    assert budget.held_bytes == 3 * MIB


def test_the_address_that_holds_most_loses_its_largest_body_first() -> None:
    budget, small, large, late = BodyBudget(4 * MIB), body("many"), body("many"), body("few")
    budget.grow(small, MIB, 0.0)
    budget.grow(large, 3 * MIB, 0.0)
    assert budget.grow(late, MIB, 0.1) == [large]
    assert budget.grow(late, 2 * MIB, 0.1) == []
    assert budget.grow(late, 4 * MIB, 0.1) is None, "it would hold more than the other"
    assert budget.held_bytes == MIB


def test_a_complete_body_is_never_dropped() -> None:
    budget, whole, late = BodyBudget(MIB), body("many"), body("few")
    budget.grow(whole, MIB, 0.0)
    whole.is_complete = True
    assert budget.grow(late, MIB, 100.0) is None
    budget.release(whole)
    assert budget.grow(late, MIB, 100.0) == []


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 4 * MIB), st.booleans()), max_size=60))
def test_the_bound_holds_for_any_sequence(steps: list[tuple[int, int, bool]]) -> None:
    budget, bodies = BodyBudget(5 * MIB), [body("ab"[n % 2]) for n in range(6)]
    for at, (number, size, ends) in enumerate(steps):
        if ends:
            budget.release(bodies[number])
        else:
            budget.grow(bodies[number], max(size, bodies[number].size), at / 4)
        assert budget.held_bytes == sum(one.size for one in bodies) <= budget.max_bytes
