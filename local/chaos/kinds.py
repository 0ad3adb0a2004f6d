"""The kinds of what is done to a fleet, their order by seed, and whom each is done to."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random

from local.chaos import faults, faulty, hostile, outside, unanswerable
from local.chaos.fleet import ChaosFleet
from local.emulated_instance import EmulatedInstance
from local.engines import SIM, VLLM

Strike = Callable[[ChaosFleet, Sequence[EmulatedInstance]], Awaitable[None]]


@dataclass(frozen=True)
class Kind:
    """victims: how many nodes it takes; most_of: the metric that says where it hurts most, None for any node.

    sudden: whether the node is gone, or as good as gone, without a word; leaves: how many nodes it leaves in peace,
    None for as many as any other; needs_namespace: whether it may only be done in a network namespace of its own;
    engines: those that it can be done to.
    """

    name: str
    strike: Strike
    targets: int = 1
    most_of: str | None = None
    sudden: bool = False
    leaves: int | None = None
    needs_namespace: bool = False
    engines: tuple[str, ...] = (SIM, VLLM)


KINDS = (
    Kind("notice", faults.notice),
    Kind("short-notice", faults.short_notice),
    Kind("mass-notice", faults.notice, targets=4, leaves=3),
    Kind("rebalance-then-notice", faults.rebalance),
    Kind("sigterm", faults.sigterm),
    Kind("sigkill", faults.kill, sudden=True),
    Kind("entry-kill", faults.kill, most_of="synkti_streams_open", sudden=True),
    Kind("keeper-kill", faults.kill, most_of="synkti_kept_bytes", sudden=True),
    Kind("pool-kill", faults.kill, targets=2, sudden=True),
    Kind("sigstop", faults.freeze, sudden=True),
    Kind("sigstop-sigcont", faults.freeze_and_thaw, sudden=True),
    Kind("engine-sigkill", faults.engine_kill, most_of="synkti_engine_requests"),
    Kind("engine-core-sigkill", faults.engine_core_kill, most_of="synkti_engine_requests"),
    Kind("engine-sigterm", faults.engine_term, most_of="synkti_engine_requests"),
    Kind("engine-sigstop", faults.engine_stop, most_of="synkti_engine_requests"),
    Kind("network-cut", faults.cut, targets=2, needs_namespace=True),
    Kind("odd-tag", outside.odd_tag, targets=0, needs_namespace=True),
    Kind("aws-away", outside.aws_away, targets=0),
    Kind("metadata-away", outside.metadata_away),
    Kind("skewed-clock", faulty.skewed_clock, sudden=True),
    Kind("dead-replica-link", faulty.dead_replica_link, most_of="synkti_kept_bytes", sudden=True),
    Kind("stuck-core", faulty.stuck_core, most_of="synkti_engine_requests", engines=(SIM,)),
    Kind("slow-engine", faulty.slow_engine, most_of="synkti_engine_requests", engines=(SIM,)),
    Kind("slow-engine", faulty.slowed_engine, most_of="synkti_engine_requests", engines=(VLLM,)),
    Kind("preempted-streams", faulty.preempted_streams, most_of="synkti_engine_requests", engines=(SIM,)),
    Kind("preempted-streams", faulty.crowded_engine, most_of="synkti_engine_requests", engines=(VLLM,)),
    Kind("long-step", faulty.long_step, most_of="synkti_engine_requests", engines=(SIM,)),
    Kind("engine-errors", faulty.engine_errors, most_of="synkti_engine_requests", engines=(SIM,)),
    Kind("poisonous-prompt", unanswerable.poisonous_prompt, targets=0, engines=(SIM,)),
    Kind("request-that-fails", unanswerable.request_that_fails, targets=0, engines=(SIM,)),
    Kind("stalled-readers", hostile.stalled_readers),
    Kind("flood", hostile.flood),
    Kind("half-sent-bodies", hostile.half_sent_bodies),
    Kind("foreign-datagrams", hostile.foreign_datagrams),
)


class FailureBudget:
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
        over = self._recent() + kind.targets - self.MOST_AT_ONCE
        if over > 0:
            await asyncio.sleep(self._at[over - 1] + self.NOTICED_WITHIN_S - self._clock())
        self._at += [self._clock()] * kind.targets

    def _recent(self) -> int:
        self._at = [at for at in self._at if self._clock() - at < self.NOTICED_WITHIN_S]
        return len(self._at)


def shuffled(random: Random, kinds: Sequence[Kind]) -> Iterator[Kind]:
    """Kinds without end: all of them once in a random order, then again, so that none is rare."""
    while True:
        yield from random.sample(kinds, len(kinds))


async def targets(fleet: ChaosFleet, kind: Kind, random: Random) -> list[EmulatedInstance]:
    """Whom to strike; fewer than the kind wants where there are too few calm nodes. A pool goes together."""
    calm = fleet.calm
    if kind.name == "pool-kill":
        pools = [[m for m in calm if m.metadata.zone == zone][:2] for zone in {m.metadata.zone for m in calm}]
        return max(sorted(pools, key=lambda pool: pool[0].instance_id), key=len, default=[])
    if kind.most_of is not None:
        figures = [(await fleet.figure(machine, kind.most_of), machine.instance_id) for machine in calm]
        worst = max(figures, default=(0.0, ""))[1]
        return [machine for machine in calm if machine.instance_id == worst]
    return random.sample(calm, min(kind.targets, len(calm)))
