"""Fair shares of full engines on virtual time, with the agent's queue, router and load monitor.

In each case a tenant sends ten times as much as each other, and each has at least four requests open for every place of
its share. Nothing here depends on the machine's speed: what counts is tokens served in virtual seconds.
"""

from __future__ import annotations

import pytest

from sim.fair_sharing import GOAL
from tests.unit.runtime.client_api.full_fleet import Entry, Fleet, Tenant, index, serve

WARM_S = 60.0
"""Until engines were full once, and what the first burst left there is served; with long answers FIRST_BURST_S."""

FIRST_BURST_S = 240.0

CASES: dict[str, tuple[list[Tenant], int, int]] = {  # tenants, nodes, places of an engine
    "short answers": ([*(Tenant(f"t{n}", 5) for n in (1, 2, 3)), Tenant("x10", 50)], 1, 4),
    "nobody obeys Retry-After": (
        [*(Tenant(f"t{n}", 5, retry_s=0.1) for n in (1, 2, 3)), Tenant("x10", 50, retry_s=0.1)],
        1,
        4,
    ),
    "long answers, two tenants": ([Tenant("t1", 32, 400), Tenant("x10", 320, 400)], 1, 16),
    "long answers of any length": (
        [Tenant("t1", 32, 400, varies=True), Tenant("x10", 320, 400, varies=True)],
        1,
        16,
    ),
    "the large one's are four times as long": ([Tenant("t1", 32, 100), Tenant("x10", 320, 400)], 1, 16),
    "the large one names a max_tokens that it does not use": (
        [Tenant("t1", 16, 100), Tenant("t2", 16, 100), Tenant("x10", 160, 100, max_tokens=4_096)],
        1,
        16,
    ),
    "a small one names a max_tokens that it does not use": (
        [Tenant("t1", 16, 100, max_tokens=4_096), Tenant("t2", 16, 100), Tenant("x10", 160, 100)],
        1,
        16,
    ),
    "a batch of 600 at once": ([Tenant("t1", 32, 100), Tenant("x10", 600, 100)], 1, 16),
    "three nodes": ([Tenant("t1", 32, 100), Tenant("t2", 32, 100), Tenant("x10", 320, 100)], 3, 8),
}


OFTEN = ("short answers", "long answers, two tenants", "a small one names a max_tokens that it does not use")
"""Cases that run with every push; the others run at night."""


@pytest.mark.parametrize(
    "case", [case if case in OFTEN else pytest.param(case, marks=pytest.mark.long) for case in CASES]
)
def test_tenants_get_equal_parts_of_full_engines_whatever_one_of_them_sends(case: str) -> None:
    tenants, nodes, places = CASES[case]
    warm_s = FIRST_BURST_S if any(tenant.answer > 100 for tenant in tenants) else WARM_S
    fleet = serve(tenants, nodes=nodes, places=places, warm_s=warm_s)
    assert index(fleet, tenants) >= GOAL, fleet.served
    capacity = nodes * places / fleet.entries[0].engine.seconds_per_token * fleet.lasts_s
    assert sum(fleet.served.values()) >= 0.9 * capacity  # the queue leaves no place empty


def test_an_engine_that_was_full_once_gets_no_burst_around_the_queue() -> None:
    tenants = [Tenant("t1", 16, 20), Tenant("x10", 160, 20)]

    def forget(fleet: Fleet) -> None:
        for entry in fleet.entries:
            entry.engine.most_open = 0

    fleet = serve(tenants, places=8, warm_s=15.0, lasts_s=15.0, after_warm=forget)
    entry: Entry = fleet.entries[0]
    assert entry.engine.most_open <= 24  # at most; its own reports are a quarter of a second old


@pytest.mark.long
def test_without_turns_the_large_tenant_has_nearly_all() -> None:
    tenants = [Tenant("t1", 5, key="one"), Tenant("t2", 5, key="one"), Tenant("x10", 50, key="one")]
    assert index(serve(tenants, warm_s=WARM_S), tenants) < 0.7
