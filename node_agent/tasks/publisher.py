"""Writes what this node has become: its tags, and its record's timeline. In order, in the background, with retries.

Nothing that a client sees waits for these writes. Only the newest tags matter, so a backlog collapses to them; every
step of the timeline is written.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable

from node_agent.contract.drains import DrainRecord
from node_agent.contract.errors import StaleEpoch, StoreUnavailable
from node_agent.contract.records import NodeRecord, TimelineStep
from node_agent.contract.states import NodeState
from node_agent.contract.tags import NodeTags
from node_agent.core.backoff import Backoff
from node_agent.ports import Instances, Records

_MAX_STEPS = 256
_log = logging.getLogger(__name__)


class Publisher:
    """record: the one this incarnation begins with; records: None where there is no table.

    chance: uniform in [0, 1), for backoff.
    """

    def __init__(
        self,
        record: NodeRecord,
        instances: Instances,
        records: Records | None,
        chance: Callable[[], float],
    ) -> None:
        self._record = record
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
            await self._news.wait()
            self._news.clear()
            try:
                await self._write()
                attempt = 0
                if not self._news.is_set():
                    self._idle.set()
            except StoreUnavailable as error:
                attempt += 1
                _log.warning("%s; trying again", error)
                self._news.set()
                await asyncio.sleep(self._backoff.wait_s(attempt, self._chance()) or 0.0)
            except StaleEpoch as stale:
                _log.warning("%s; the record stays as it is", stale)
                self._steps.clear()
                self._news.set()

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
        if (drain := self._drain) is not None:
            await self._records.keep_drain(drain)
            self._drain_written = drain
            if self._drain is drain:
                self._drain = None
