"""Writes what this node has become: its tags, and its record's timeline. In order, in the background, with retries.

Nothing that a client sees waits for these writes. Only the newest tags matter, so a backlog collapses to them; every
step of the timeline is written. The table deletes what nobody wrote to for a week, so a node that lives renews its
record, and one whose record is gone all the same begins it anew, with all that it wrote before.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace

from node_agent.contract.drains import DrainRecord
from node_agent.contract.errors import StaleEpoch, TransientError
from node_agent.contract.records import NodeRecord, RecordMissing, TimelineStep, renewed
from node_agent.contract.states import NodeState
from node_agent.contract.tags import NodeTags
from node_agent.core.backoff import Backoff
from node_agent.ports import Instances, Records

_MAX_STEPS = 256
_WITHIN_S = 120.0
"""For one round of writes, whatever the adapters wait for: then it is tried again."""

RENEW_EVERY_S = 24 * 3600.0
"""Once a day, of a life of seven."""

_log = logging.getLogger(__name__)


class Publisher:
    """record: the one this incarnation begins with; records: None where there is no table.

    chance: uniform in [0, 1), for backoff; clock: unix seconds.
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
        self._chance = chance
        self._tags: NodeTags | None = None
        self._drain: DrainRecord | None = None
        self._drain_written: DrainRecord | None = None
        self._steps: deque[tuple[NodeState, TimelineStep]] = deque(maxlen=_MAX_STEPS)
        self._news = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._backoff = Backoff(first_s=0.5, max_s=15.0)

    def publish(self, tags: NodeTags | None, state: NodeState, step: TimelineStep) -> None:
        """Returns at once. tags: None where they stay as they are."""
        self._tags = tags or self._tags
        self._steps.append((state, step))
        self._idle.clear()
        self._news.set()

    def keep_drain(self, record: DrainRecord) -> None:
        """Returns at once. Only the newest word of a drain matters."""
        if record != self._drain_written:
            self._drain = record
            self._idle.clear()
            self._news.set()

    async def flush(self, within_s: float) -> bool:
        """Wait until everything was written; False where that took longer than it may."""
        try:
            async with asyncio.timeout(within_s):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True

    async def run(self) -> None:
        """Until cancelled."""
        attempt = 0
        while True:
            await self._wait()
            self._news.clear()
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
                await asyncio.sleep(self._backoff.wait_s(attempt, self._chance()) or 0.0)
            except StaleEpoch as stale:
                _log.warning("%s; the record stays as it is", stale)
                self._steps.clear()
                self._written = None
                self._news.set()
            except RecordMissing as missing:
                _log.warning("%s; it begins anew", missing)
                self._begin_anew(missing.timeline)
                self._news.set()

    async def _wait(self) -> None:
        """Until there is something to write; the record's last step once more, where there was nothing for a day."""
        try:
            async with asyncio.timeout(RENEW_EVERY_S):
                await self._news.wait()
        except TimeoutError:
            if self._written is not None and not self._steps:
                state, step = self._written
                self._steps.append((state, replace(step, at=self._clock())))

    def _begin_anew(self, found: Mapping[str, TimelineStep]) -> None:
        """found: what others wrote meanwhile in the place of this node's record."""
        timeline = {**found, **self._record.timeline}
        self._record = replace(self._record, timeline=timeline, expires_at=renewed(self._clock()))
        self._begun = False

    async def _write(self) -> None:
        if self._tags is not None:
            tags = self._tags
            await self._instances.tag(self._record.instance_id, tags)
            if self._tags is tags:
                self._tags = None
        if self._records is None:
            self._steps.clear()
            self._drain = None
            return
        if not self._begun:
            await self._records.begin(self._record)
            self._begun = True
        while self._steps:
            state, step = self._steps[0]
            await self._records.advance(self._record.instance_id, self._record.incarnation, state, step)
            self._steps.popleft()
            self._note(state, step)
        await self._write_drain(self._records)

    def _note(self, state: NodeState, step: TimelineStep) -> None:
        """What is written, in case that it has to be written again: the oldest steps go where there are too many."""
        timeline = {step.key: step, **self._record.timeline}
        kept = dict(sorted(timeline.items(), key=lambda item: item[1].at)[-_MAX_STEPS:])
        forward = max(self._record.state, state, key=lambda each: each.rank)
        self._record = replace(self._record, state=forward, timeline=kept)
        self._written = (state, step)

    async def _write_drain(self, records: Records) -> None:
        if (drain := self._drain) is not None:
            await records.keep_drain(drain)
            self._drain_written = drain
            if self._drain is drain:
                self._drain = None
