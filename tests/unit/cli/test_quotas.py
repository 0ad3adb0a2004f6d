"""The quota of an instance type, and what a fleet needs of it."""

from __future__ import annotations

import pytest

from cli.core.quotas import quota_needs, quota_of

G_SPOT, P_SPOT, P5_SPOT, G_DEMAND = "L-3819A6DF", "L-7212CCBC", "L-C4BD4855", "L-DB2E81BA"


@pytest.mark.parametrize(
    ("instance_type", "spot", "demand"),
    [
        ("g4dn.xlarge", G_SPOT, G_DEMAND),
        ("g6e.12xlarge", G_SPOT, G_DEMAND),
        ("gr6.4xlarge", G_SPOT, G_DEMAND),
        ("vt1.3xlarge", G_SPOT, G_DEMAND),
        ("p4d.24xlarge", P_SPOT, "L-417A185B"),
        ("p5.48xlarge", P5_SPOT, "L-417A185B"),
        ("p6-b200.48xlarge", P5_SPOT, "L-417A185B"),
    ],
)
def test_the_family_of_an_instance_type_selects_its_quota(instance_type: str, spot: str, demand: str) -> None:
    of_spot, on_demand = quota_of(instance_type, spot=True), quota_of(instance_type, spot=False)
    assert of_spot is not None
    assert on_demand is not None
    assert (of_spot.code, on_demand.code) == (spot, demand)


def test_other_families_have_no_quota_here() -> None:
    assert quota_of("m5.large", spot=True) is None
    assert quota_needs(["m5.large"], {"m5.large": 2}, 3, spot=True) == ()
