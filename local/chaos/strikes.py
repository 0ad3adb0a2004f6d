"""What is done to nodes: one function for each kind, and the order of the kinds by seed.

Every strike ends by itself; a node that it takes is replaced by the fleet. Deadlines are short, because a real notice
of two minutes would let every stream of a tiny model finish.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random

from local.chaos import network
from local.chaos.fleet import ChaosFleet, kill_engine_core, signal_all, signal_engine
from local.machines import Machine

NOTICE_S = 9.0
SHORT_NOTICE_S = 3.5
TERM_GRACE_S = 8.0
_REBALANCE_LEAD_S = 2.0
_FROZEN_S = 6.0
_CUT_S = 5.0

Strike = Callable[[ChaosFleet, Sequence[Machine]], Awaitable[None]]


async def _notice(fleet: ChaosFleet, machines: Sequence[Machine], lead_s: float = NOTICE_S) -> None:
    for machine in machines:
        machine.give_notice(lead_s)
    await asyncio.sleep(lead_s)
    await _kill(fleet, machines)


async def _short_notice(fleet: ChaosFleet, machines: Sequence[Machine]) -> None:
    await _notice(fleet, machines, SHORT_NOTICE_S)


async def _rebalance(fleet: ChaosFleet, machines: Sequence[Machine]) -> None:
    machines[0].recommend_rebalance()
    await asyncio.sleep(_REBALANCE_LEAD_S)
    await _notice(fleet, machines)


async def _sigterm(fleet: ChaosFleet, machines: Sequence[Machine]) -> None:
    machines[0].agent.terminate()
    await asyncio.sleep(TERM_GRACE_S + 4.0)
    await _kill(fleet, machines)


async def _kill(fleet: ChaosFleet, machines: Sequence[Machine]) -> None:
    await asyncio.gather(*(asyncio.to_thread(machine.kill) for machine in machines if machine.running))


async def _freeze(fleet: ChaosFleet, machines: Sequence[Machine]) -> None:
    """It stops, its sockets stay open, and it comes back only to be gone."""
    signal_all(machines[0].folder, signal.SIGSTOP)
    await asyncio.sleep(_FROZEN_S)
    await _kill(fleet, machines)


async def _freeze_and_thaw(fleet: ChaosFleet, machines: Sequence[Machine]) -> None:
    """It stops, and comes back as if nothing had been: an owner of streams that others own by now."""
    signal_all(machines[0].folder, signal.SIGSTOP)
    await asyncio.sleep(_FROZEN_S)
    signal_all(machines[0].folder, signal.SIGCONT)
    await asyncio.sleep(1.0)


async def _engine_kill(fleet: ChaosFleet, machines: Sequence[Machine]) -> None:
    signal_engine(machines[0], signal.SIGKILL)
    await asyncio.sleep(0.5)


async def _engine_core_kill(fleet: ChaosFleet, machines: Sequence[Machine]) -> None:
    kill_engine_core(machines[0])
    await asyncio.sleep(0.5)


async def _engine_term(fleet: ChaosFleet, machines: Sequence[Machine]) -> None:
    signal_engine(machines[0], signal.SIGTERM)
    await asyncio.sleep(0.5)


async def _engine_stop(fleet: ChaosFleet, machines: Sequence[Machine]) -> None:
    """A silent hang: the inter-token timeout's to find."""
    signal_engine(machines[0], signal.SIGSTOP)
    await asyncio.sleep(_FROZEN_S)
    signal_engine(machines[0], signal.SIGKILL)


async def _cut(fleet: ChaosFleet, machines: Sequence[Machine]) -> None:
    one, other = (machine.host for machine in machines)
    await asyncio.to_thread(network.cut, one, other)
    try:
        await asyncio.sleep(_CUT_S)
    finally:
        await asyncio.to_thread(network.heal, one, other)


@dataclass(frozen=True)
class Kind:
    """victims: how many nodes it takes; most_of: the metric that says where it hurts most, None for any node.

    sudden: whether the node is gone, or as good as gone, without a word; leaves: how many nodes it leaves in peace,
    None for as many as any other.
    """

    name: str
    strike: Strike
    victims: int = 1
    most_of: str | None = None
    sudden: bool = False
    leaves: int | None = None


KINDS = (
    Kind("notice", _notice),
    Kind("short-notice", _short_notice),
    Kind("mass-notice", _notice, victims=4, leaves=3),
    Kind("rebalance-then-notice", _rebalance),
    Kind("sigterm", _sigterm),
    Kind("sigkill", _kill, sudden=True),
    Kind("entry-kill", _kill, most_of="synkti_streams_open", sudden=True),
    Kind("keeper-kill", _kill, most_of="synkti_kept_bytes", sudden=True),
    Kind("pool-kill", _kill, victims=2, sudden=True),
    Kind("sigstop", _freeze, sudden=True),
    Kind("sigstop-sigcont", _freeze_and_thaw, sudden=True),
    Kind("engine-sigkill", _engine_kill, most_of="synkti_engine_requests"),
    Kind("engine-core-sigkill", _engine_core_kill, most_of="synkti_engine_requests"),
    Kind("engine-sigterm", _engine_term, most_of="synkti_engine_requests"),
    Kind("engine-sigstop", _engine_stop, most_of="synkti_engine_requests"),
    Kind("network-cut", _cut, victims=2),
)


class Losses:
    """Keeps to what two keepers are for.

    Of the nodes that hold one stream (its entry, two keepers) two may be lost within the time that it takes to notice
    and to copy; a third is beyond the promise. So no more than MOST_AT_ONCE nodes are lost without a word in any
    NOTICED_WITHIN_S.
    """

    MOST_AT_ONCE = 2
    NOTICED_WITHIN_S = 4.0

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._at: list[float] = []

    async def room_for(self, kind: Kind) -> None:
        """Wait until the strike keeps to it, and count it."""
        if not kind.sudden:
            return
        over = self._recent() + kind.victims - self.MOST_AT_ONCE
        if over > 0:
            await asyncio.sleep(self._at[over - 1] + self.NOTICED_WITHIN_S - self._clock())
        self._at += [self._clock()] * kind.victims

    def _recent(self) -> int:
        self._at = [at for at in self._at if self._clock() - at < self.NOTICED_WITHIN_S]
        return len(self._at)


def deck(random: Random, kinds: Sequence[Kind]) -> Iterator[Kind]:
    """Kinds without end: all of them once in a random order, then again, so that none is rare."""
    while True:
        yield from random.sample(kinds, len(kinds))


async def victims(fleet: ChaosFleet, kind: Kind, random: Random) -> list[Machine]:
    """Whom to strike; fewer than the kind wants where there are too few calm nodes. A pool goes together."""
    calm = fleet.calm
    if kind.name == "pool-kill":
        pools = [[m for m in calm if m.metadata.zone == zone][:2] for zone in {m.metadata.zone for m in calm}]
        return max(sorted(pools, key=lambda pool: pool[0].instance_id), key=len, default=[])
    if kind.most_of is not None:
        figures = [(await fleet.figure(machine, kind.most_of), machine.instance_id) for machine in calm]
        worst = max(figures, default=(0.0, ""))[1]
        return [machine for machine in calm if machine.instance_id == worst]
    return random.sample(calm, min(kind.victims, len(calm)))
