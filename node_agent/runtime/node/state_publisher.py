"""Writes this node's state: its tags, its record's timeline, its drain. In the background, with retries.

No client waits for these writes. Only the newest tags and the newest record of a drain matter, so a backlog collapses
to them; every step of the timeline is written, in order. Each of the three has a loop of its own (`_Lane`): a service
that is away, or slow, delays none of the others, and is caught up with once it is back. The table deletes a record that
was not written to for a week, so a running node renews its record, and recreates one that is gone all the same, with
all that it wrote before.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace

from node_agent.contract.drain_record import DrainRecord
from node_agent.contract.errors import StaleEpoch, StoreUnavailable, TransientError
from node_agent.contract.states import NodeState
from node_agent.contract.table_schema import NodeRecord, RecordMissing, TimelineStep, renewed
from node_agent.contract.tags import NodeTags
from node_agent.core.common.backoff import Backoff
from node_agent.ports import Instances, Records

_MAX_STEPS = 256
_WITHIN_S = 120.0
"""The timeout of one round of writes, whatever the adapters' own: then it is tried again."""

RENEW_EVERY_S = 24 * 3600.0
"""Once a day, of a life of seven."""

_log = logging.getLogger(__name__)


class StatePublisher:
    """Queues and writes tags, steps and drain records.

    record: the one that this incarnation begins with; records: None where there is no table. chance: uniform in [0, 1),
    for backoff; clock: unix seconds.
    """

    def __init__(
        self,
        record: NodeRecord,
        instances: Instances,
        records: Records | None,
        chance: Callable[[], float],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._record = record
        self._clock = clock
        self._written: tuple[NodeState, TimelineStep] | None = None
        self._begun = False
        self._instances = instances
        self._records = records
        self._tags: NodeTags | None = None
        self._last_tags: NodeTags | None = None
        self._drain: DrainRecord | None = None
        self._drain_written: DrainRecord | None = None
        self._steps: deque[tuple[NodeState, TimelineStep]] = deque(maxlen=_MAX_STEPS)
        self._tag_lane = _Lane(self._write_tags, chance)
        self._step_lane = _Lane(self._write_steps, chance, RENEW_EVERY_S)
        self._drain_lane = _Lane(self._write_drain, chance)

    def publish(self, tags: NodeTags | None, state: NodeState, step: TimelineStep) -> None:
        """Queue tags and a step; return at once. tags: None where they stay as they are."""
        self._last_tags = tags if tags is not None or state is NodeState.GONE else self._last_tags
        if tags is not None:
            self._tags = tags
            self._tag_lane.wake()
        self._steps.append((state, step))
        self._step_lane.wake()

    def publish_keys(self, key_ids: tuple[str, ...]) -> None:
        """Queue the tags again with other ids of cluster keys."""
        if self._last_tags is not None:
            self._last_tags = replace(self._last_tags, cluster_keys=key_ids)
        self.publish_again()

    def publish_again(self) -> None:
        """Queue the newest tags again; nothing before there are tags, or after their end."""
        if self._last_tags is not None:
            self._tags = self._last_tags
            self._tag_lane.wake()

    def put_drain(self, record: DrainRecord) -> None:
        """Queue the record of a drain; return at once. Only the newest is written."""
        if record != self._drain_written:
            self._drain = record
            self._drain_lane.wake()

    async def flush(self, within_s: float) -> bool:
        """Wait until everything was written, without further backoff; False where that took longer than it may."""
        lanes = (self._tag_lane, self._step_lane, self._drain_lane)
        for lane in lanes:
            lane.hurry()
        try:
            async with asyncio.timeout(within_s):
                for lane in lanes:
                    await lane.idle()
        except TimeoutError:
            return False
        return True

    async def run(self) -> None:
        """Write until cancelled."""
        async with asyncio.TaskGroup() as lanes:
            for lane in (self._tag_lane, self._step_lane, self._drain_lane):
                lanes.create_task(lane.run())

    async def _write_tags(self) -> None:
        while (tags := self._tags) is not None:
            await self._instances.tag(self._record.instance_id, tags)
            if self._tags is tags:
                self._tags = None

    async def _write_steps(self) -> None:
        if self._records is None:
            self._steps.clear()
            return
        if self._written is not None and not self._steps:  # nothing was written for a day
            state, step = self._written
            self._steps.append((state, replace(step, at=self._clock())))
        began_anew = False
        while self._steps:
            try:
                await self._advance(self._records)
            except StaleEpoch as stale:
                _log.warning("%s; the record stays as it is", stale)
                self._steps.clear()
                self._written = None
            except RecordMissing as missing:
                if began_anew:
                    raise StoreUnavailable(f"{missing}, again") from missing
                _log.warning("%s; writing it anew", missing)
                self._recreate_record(missing.timeline)
                began_anew = True

    async def _advance(self, records: Records) -> None:
        """Write the next step."""
        if not self._begun:
            await records.begin(self._record)
            self._begun = True
        state, step = first = self._steps[0]
        await records.advance(self._record.instance_id, self._record.incarnation, state, step)
        if self._steps and self._steps[0] is first:  # else it fell out meanwhile, at the bound
            self._steps.popleft()
        self._record_written(state, step)

    def _recreate_record(self, found: Mapping[str, TimelineStep]) -> None:
        """Prepare the record to be written again. found: what other writers added meanwhile in its place."""
        timeline = {**found, **self._record.timeline}
        self._record = replace(self._record, timeline=timeline, expires_at=renewed(self._clock()))
        self._begun = False

    def _record_written(self, state: NodeState, step: TimelineStep) -> None:
        """Keep what is written, in case that it has to be written again; the oldest steps are dropped at the bound."""
        timeline = {step.key: step, **self._record.timeline}
        kept = dict(sorted(timeline.items(), key=lambda item: item[1].at)[-_MAX_STEPS:])
        forward = max(self._record.state, state, key=lambda each: each.rank)
        self._record = replace(self._record, state=forward, timeline=kept)
        self._written = (state, step)

    async def _write_drain(self) -> None:
        while (drain := self._drain) is not None and self._records is not None:
            await self._records.put_drain(drain)
            self._drain_written = drain
            if self._drain is drain:
                self._drain = None


class _Lane:
    """One kind of write: `write` is called when there is something to write, and again with backoff where it fails.

    every_s: it is called at least so often, too.
    """

    def __init__(
        self, write: Callable[[], Awaitable[None]], chance: Callable[[], float], every_s: float | None = None
    ) -> None:
        self._write = write
        self._chance = chance
        self._every_s = every_s
        self._news = asyncio.Event()
        self._hurry = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._backoff = Backoff(first_s=0.5, max_s=15.0)

    def wake(self) -> None:
        """Report that there is something to write."""
        self._idle.clear()
        self._news.set()

    def hurry(self) -> None:
        """Retry at once, without the rest of the backoff."""
        self._hurry.set()

    async def idle(self) -> None:
        """Wait until all was written."""
        await self._idle.wait()

    async def run(self) -> None:
        """Write until cancelled. At a restart, write what a bug, in this lane or another, kept from being written."""
        attempt = 0
        if not self._idle.is_set():
            self._news.set()
        while True:
            await _wait(self._news, self._every_s)
            self._news.clear()
            self._hurry.clear()
            try:
                async with asyncio.timeout(_WITHIN_S):
                    await self._write()
                attempt = 0
                if not self._news.is_set():
                    self._idle.set()
            except (TransientError, TimeoutError) as error:
                attempt += 1
                _log.warning("%s; trying again", str(error) or f"AWS did not answer within {_WITHIN_S:.0f} s")
                self._news.set()
                await _wait(self._hurry, self._backoff.wait_s(attempt, self._chance()))


async def _wait(event: asyncio.Event, most_s: float | None) -> None:
    """Wait for the event, at most that long."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(most_s):
            await event.wait()
