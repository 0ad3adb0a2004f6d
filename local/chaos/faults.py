"""What is done to nodes: one function for each kind (`kinds`).

Every strike ends by itself; a node that it takes is replaced by the fleet. Deadlines are short, because a real notice
of two minutes would let every stream of a tiny model finish.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Sequence

from local.chaos import network
from local.chaos.fleet import ChaosFleet, kill_engine_core, signal_all, signal_engine
from local.emulated_instance import EmulatedInstance

NOTICE_S = 9.0
SHORT_NOTICE_S = 3.5
TERM_GRACE_S = 8.0
_REBALANCE_LEAD_S = 2.0
_PAUSED_S = 6.0
_CUT_S = 5.0


async def notice(fleet: ChaosFleet, machines: Sequence[EmulatedInstance], lead_s: float = NOTICE_S) -> None:
    for machine in machines:
        machine.give_notice(lead_s)
    await asyncio.sleep(lead_s)
    await kill(fleet, machines)


async def short_notice(fleet: ChaosFleet, machines: Sequence[EmulatedInstance]) -> None:
    await notice(fleet, machines, SHORT_NOTICE_S)


async def rebalance(fleet: ChaosFleet, machines: Sequence[EmulatedInstance]) -> None:
    machines[0].recommend_rebalance()
    await asyncio.sleep(_REBALANCE_LEAD_S)
    await notice(fleet, machines)


async def sigterm(fleet: ChaosFleet, machines: Sequence[EmulatedInstance]) -> None:
    machines[0].agent.terminate()
    await asyncio.sleep(TERM_GRACE_S + 4.0)
    await kill(fleet, machines)


async def kill(fleet: ChaosFleet, machines: Sequence[EmulatedInstance]) -> None:
    await asyncio.gather(*(asyncio.to_thread(machine.kill) for machine in machines if machine.running))


async def pause(fleet: ChaosFleet, machines: Sequence[EmulatedInstance]) -> None:
    """It stops, its sockets stay open, and it comes back only to be gone."""
    signal_all(machines[0].folder, signal.SIGSTOP)
    await asyncio.sleep(_PAUSED_S)
    await kill(fleet, machines)


async def pause_and_resume(fleet: ChaosFleet, machines: Sequence[EmulatedInstance]) -> None:
    """It stops, and comes back as if nothing had been: an owner of streams that others own by now."""
    signal_all(machines[0].folder, signal.SIGSTOP)
    await asyncio.sleep(_PAUSED_S)
    signal_all(machines[0].folder, signal.SIGCONT)
    await asyncio.sleep(1.0)


async def engine_kill(fleet: ChaosFleet, machines: Sequence[EmulatedInstance]) -> None:
    signal_engine(machines[0], signal.SIGKILL)
    await asyncio.sleep(0.5)


async def engine_core_kill(fleet: ChaosFleet, machines: Sequence[EmulatedInstance]) -> None:
    kill_engine_core(machines[0])
    await asyncio.sleep(0.5)


async def engine_term(fleet: ChaosFleet, machines: Sequence[EmulatedInstance]) -> None:
    signal_engine(machines[0], signal.SIGTERM)
    await asyncio.sleep(0.5)


async def engine_stop(fleet: ChaosFleet, machines: Sequence[EmulatedInstance]) -> None:
    """A silent hang: the inter-token timeout's to find."""
    signal_engine(machines[0], signal.SIGSTOP)
    await asyncio.sleep(_PAUSED_S)
    signal_engine(machines[0], signal.SIGKILL)


async def cut(fleet: ChaosFleet, machines: Sequence[EmulatedInstance]) -> None:
    one, other = (machine.host for machine in machines)
    await asyncio.to_thread(network.cut, one, other)
    try:
        await asyncio.sleep(_CUT_S)
    finally:
        await asyncio.to_thread(network.heal, one, other)
