"""Injects faults that end nodes, engines and connections: one function for each kind (`kinds`).

Every fault ends by itself, and the fleet replaces a node that is gone. Deadlines are short, because a real notice of
two minutes would let every stream of a tiny model finish.
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


async def notice(fleet: ChaosFleet, instances: Sequence[EmulatedInstance], lead_s: float = NOTICE_S) -> None:
    """Reclaim nodes with notice in IMDS, and kill them at the deadline. lead_s: seconds until then."""
    for instance in instances:
        instance.give_notice(lead_s)
    await asyncio.sleep(lead_s)
    await kill(fleet, instances)


async def short_notice(fleet: ChaosFleet, instances: Sequence[EmulatedInstance]) -> None:
    """Reclaim nodes with a notice that is too short for a drain at leisure."""
    await notice(fleet, instances, SHORT_NOTICE_S)


async def rebalance(fleet: ChaosFleet, instances: Sequence[EmulatedInstance]) -> None:
    """Recommend a rebalance, then reclaim the node with notice."""
    instances[0].recommend_rebalance()
    await asyncio.sleep(_REBALANCE_LEAD_S)
    await notice(fleet, instances)


async def sigterm(fleet: ChaosFleet, instances: Sequence[EmulatedInstance]) -> None:
    """Send SIGTERM to an agent, as a shutdown does, and kill what is left after its grace."""
    instances[0].agent.terminate()
    await asyncio.sleep(TERM_GRACE_S + 4.0)
    await kill(fleet, instances)


async def kill(fleet: ChaosFleet, instances: Sequence[EmulatedInstance]) -> None:
    """Kill nodes at once and without notice: agent, engine and all that they started."""
    await asyncio.gather(*(asyncio.to_thread(instance.kill) for instance in instances if instance.running))


async def pause(fleet: ChaosFleet, instances: Sequence[EmulatedInstance]) -> None:
    """Stop a node with its sockets open, then end it."""
    signal_all(instances[0].folder, signal.SIGSTOP)
    await asyncio.sleep(_PAUSED_S)
    await kill(fleet, instances)


async def pause_and_resume(fleet: ChaosFleet, instances: Sequence[EmulatedInstance]) -> None:
    """Stop a node and let it continue: it still owns streams that others own by then."""
    signal_all(instances[0].folder, signal.SIGSTOP)
    await asyncio.sleep(_PAUSED_S)
    signal_all(instances[0].folder, signal.SIGCONT)
    await asyncio.sleep(1.0)


async def engine_kill(fleet: ChaosFleet, instances: Sequence[EmulatedInstance]) -> None:
    """Kill an engine with all of its processes; its agent restarts it."""
    signal_engine(instances[0], signal.SIGKILL)
    await asyncio.sleep(0.5)


async def engine_core_kill(fleet: ChaosFleet, instances: Sequence[EmulatedInstance]) -> None:
    """Kill a vLLM's core only; its API server remains, and reports the loss."""
    kill_engine_core(instances[0])
    await asyncio.sleep(0.5)


async def engine_term(fleet: ChaosFleet, instances: Sequence[EmulatedInstance]) -> None:
    """Send SIGTERM to an engine behind its agent's back."""
    signal_engine(instances[0], signal.SIGTERM)
    await asyncio.sleep(0.5)


async def engine_stop(fleet: ChaosFleet, instances: Sequence[EmulatedInstance]) -> None:
    """Let an engine hang silently, so that the inter-token timeout has to find it."""
    signal_engine(instances[0], signal.SIGSTOP)
    await asyncio.sleep(_PAUSED_S)
    signal_engine(instances[0], signal.SIGKILL)


async def cut(fleet: ChaosFleet, instances: Sequence[EmulatedInstance]) -> None:
    """Cut the network between two nodes for a while, in both directions."""
    one, other = (instance.host for instance in instances)
    await asyncio.to_thread(network.cut, one, other)
    try:
        await asyncio.sleep(_CUT_S)
    finally:
        await asyncio.to_thread(network.heal, one, other)
