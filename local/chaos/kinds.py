"""Defines the kinds of faults, their order by seed, and the nodes that each targets."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random

from local.chaos import faults, faulty, hostile, outside, unanswerable
from local.chaos.fleet import ChaosFleet
from local.emulated_instance import EmulatedInstance
from local.engines import SIM, VLLM

FaultInjector = Callable[[ChaosFleet, Sequence[EmulatedInstance]], Awaitable[None]]


@dataclass(frozen=True)
class FaultKind:
    """One kind of fault."""

    name: str
    inject: FaultInjector
    targets: int = 1
    """The number of nodes that it targets."""

    max_metric: str | None = None
    """Target the node with the largest value of this metric; None for any node."""

    without_notice: bool = False
    """The node is lost, or as good as lost, without notice."""

    min_stable: int | None = None
    """The number of nodes that stay without a fault; None for the scale's number."""

    needs_namespace: bool = False
    """It needs a network namespace of the run's own."""

    engines: tuple[str, ...] = (SIM, VLLM)


FAULT_KINDS = (
    FaultKind("notice", faults.notice),
    FaultKind("short-notice", faults.short_notice),
    FaultKind("mass-notice", faults.notice, targets=4, min_stable=3),
    FaultKind("rebalance-then-notice", faults.rebalance),
    FaultKind("sigterm", faults.sigterm),
    FaultKind("sigkill", faults.kill, without_notice=True),
    FaultKind("entry-kill", faults.kill, max_metric="synkti_streams_open", without_notice=True),
    FaultKind("replica-kill", faults.kill, max_metric="synkti_replica_bytes", without_notice=True),
    FaultKind("pool-kill", faults.kill, targets=2, without_notice=True),
    FaultKind("sigstop", faults.pause, without_notice=True),
    FaultKind("sigstop-sigcont", faults.pause_and_resume, without_notice=True),
    FaultKind("engine-sigkill", faults.engine_kill, max_metric="synkti_engine_requests"),
    FaultKind("engine-core-sigkill", faults.engine_core_kill, max_metric="synkti_engine_requests"),
    FaultKind("engine-sigterm", faults.engine_term, max_metric="synkti_engine_requests"),
    FaultKind("engine-sigstop", faults.engine_stop, max_metric="synkti_engine_requests"),
    FaultKind("network-cut", faults.cut, targets=2, needs_namespace=True),
    FaultKind("odd-tag", outside.odd_tag, targets=0, needs_namespace=True),
    FaultKind("aws-away", outside.aws_outage, targets=0),
    FaultKind("metadata-away", outside.metadata_outage),
    FaultKind("skewed-clock", faulty.skewed_clock, without_notice=True),
    FaultKind("dead-replica-link", faulty.dead_replica_link, max_metric="synkti_replica_bytes", without_notice=True),
    FaultKind("stuck-core", faulty.stuck_core, max_metric="synkti_engine_requests", engines=(SIM,)),
    FaultKind("slow-engine", faulty.slow_engine, max_metric="synkti_engine_requests", engines=(SIM,)),
    FaultKind("slow-engine", faulty.slowed_engine, max_metric="synkti_engine_requests", engines=(VLLM,)),
    FaultKind("preempted-streams", faulty.preempted_streams, max_metric="synkti_engine_requests", engines=(SIM,)),
    FaultKind("preempted-streams", faulty.crowded_engine, max_metric="synkti_engine_requests", engines=(VLLM,)),
    FaultKind("long-step", faulty.long_step, max_metric="synkti_engine_requests", engines=(SIM,)),
    FaultKind("engine-errors", faulty.engine_errors, max_metric="synkti_engine_requests", engines=(SIM,)),
    FaultKind("poisonous-prompt", unanswerable.poisonous_prompt, targets=0, engines=(SIM,)),
    FaultKind("request-that-fails", unanswerable.request_that_fails, targets=0, engines=(SIM,)),
    FaultKind("stalled-readers", hostile.stalled_readers),
    FaultKind("flood", hostile.flood),
    FaultKind("half-sent-bodies", hostile.half_sent_bodies),
    FaultKind("foreign-datagrams", hostile.foreign_datagrams),
)


class FailureBudget:
    """Limits losses to what two replicas can cover.

    Of the nodes that have one stream (its entry, two replicas) two may be lost within the time that detection and
    re-replication take; a third is beyond the guarantee. So at most MAX_CONCURRENT nodes are lost without notice in any
    DETECTION_S.
    """

    MAX_CONCURRENT = 2
    DETECTION_S = 4.0

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._failure_times: list[float] = []

    async def reserve(self, kind: FaultKind) -> None:
        """Wait until the budget covers the fault, and count it."""
        if not kind.without_notice:
            return
        stopping = self._recent() + kind.targets - self.MAX_CONCURRENT
        if stopping > 0:
            await asyncio.sleep(self._failure_times[stopping - 1] + self.DETECTION_S - self._clock())
        self._failure_times += [self._clock()] * kind.targets

    def _recent(self) -> int:
        self._failure_times = [at for at in self._failure_times if self._clock() - at < self.DETECTION_S]
        return len(self._failure_times)


def shuffled(random: Random, kinds: Sequence[FaultKind]) -> Iterator[FaultKind]:
    """Yield kinds without end: all once in a random order, then again, so that none is rare."""
    while True:
        yield from random.sample(kinds, len(kinds))


async def targets(fleet: ChaosFleet, kind: FaultKind, random: Random) -> list[EmulatedInstance]:
    """Choose the target nodes; fewer than `kind.targets` if too few are stable. A pool kill targets one zone."""
    calm = fleet.stable
    if kind.name == "pool-kill":
        pools = [[m for m in calm if m.metadata.zone == zone][:2] for zone in {m.metadata.zone for m in calm}]
        return max(sorted(pools, key=lambda pool: pool[0].instance_id), key=len, default=[])
    if kind.max_metric is not None:
        figures = [(await fleet.metric(instance, kind.max_metric), instance.instance_id) for instance in calm]
        worst = max(figures, default=(0.0, ""))[1]
        return [instance for instance in calm if instance.instance_id == worst]
    return random.sample(calm, min(kind.targets, len(calm)))
