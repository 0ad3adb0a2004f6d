"""Nodes and engines that work wrongly for a while, without being gone."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from local.chaos.fleet import ChaosFleet
from local.faulty_agent import write_faults
from local.machines import Machine

_FOR_S = 8.0
SKEWS_S = (60.0, -45.0, 3_600.0, -86_400.0)


async def skewed_clock(fleet: ChaosFleet, machines: Sequence[Machine]) -> None:
    """A node's wall clock jumps, and later jumps back."""
    folder = machines[0].folder
    write_faults(folder, clock_s=fleet.turn("skew", SKEWS_S))
    try:
        await asyncio.sleep(_FOR_S)
    finally:
        write_faults(folder)


async def dead_replica_link(fleet: ChaosFleet, machines: Sequence[Machine]) -> None:
    """A node accepts the connections that carry journals, and closes them; those that it has stay."""
    folder = machines[0].folder
    write_faults(folder, close_links=1)
    try:
        await asyncio.sleep(_FOR_S)
    finally:
        write_faults(folder)
