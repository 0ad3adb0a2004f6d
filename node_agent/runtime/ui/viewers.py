"""Send each new snapshot to all viewers, whose number is bounded; a viewer that does not read is disconnected."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from node_agent.contract.errors import NoReadyPeer, RequestRejected
from node_agent.core.openai import sse
from node_agent.core.snapshot.viewers import MAX_VIEWERS, ViewerPace, ViewerStep
from node_agent.ports import ServerRequest
from node_agent.runtime.common.responses import EVENT_STREAM
from node_agent.runtime.ui.snapshots import INTERVAL_S, Snapshots

REVOKED = b"revoked"
"""The name of the event that ends the snapshots of a viewer whose key does not open the route any more."""

_CACHE = ((b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff"))


class Viewer:
    """One connection that receives snapshots. check_key: raises where its key does not open the route any more."""

    def __init__(self, request: ServerRequest, check_key: Callable[[], None]) -> None:
        self.request = request
        self.is_dropped = False
        self.ended = asyncio.Event()
        self._check_key = check_key
        self._pace = ViewerPace()

    def send(self, event: bytes) -> None:
        """Send a snapshot, unless the viewer lags; end the connection of one that lags for too long."""
        step = self._pace.next_step(is_congested=self.request.is_congested)
        if step is ViewerStep.DROP:
            self.is_dropped = True
            self.ended.set()
        elif step is ViewerStep.SEND and self._still_has_access():
            self.request.write(event)

    def _still_has_access(self) -> bool:
        try:
            self._check_key()
        except NoReadyPeer:
            return False  # the keys cannot be read at the moment
        except RequestRejected as rejected:
            self.request.write(sse.named_event(REVOKED, rejected.code.encode()))
            self.ended.set()
            return False
        return True


class Viewers:
    """The viewers of one node."""

    def __init__(self, snapshots: Snapshots) -> None:
        self._snapshots = snapshots
        self._viewers: set[Viewer] = set()

    def __len__(self) -> int:
        return len(self._viewers)

    async def serve(self, request: ServerRequest, check_key: Callable[[], None]) -> None:
        """Send snapshots until the viewer leaves, is dropped, or loses its access.

        Raises:
            RequestRejected: there are MAX_VIEWERS already (429).
        """
        if len(self._viewers) >= MAX_VIEWERS:
            message = f"This node serves {MAX_VIEWERS} viewers, its bound; close another page, or open another node's."
            raise RequestRejected(429, "too_many_viewers", message)
        viewer = Viewer(request, check_key)
        self._viewers.add(viewer)
        try:
            request.begin(200, EVENT_STREAM, _CACHE)
            request.when_gone(viewer.ended.set)
            viewer.send(self._event())
            await viewer.ended.wait()
        finally:
            self._viewers.discard(viewer)
        if not viewer.is_dropped:  # without an end, the server cuts the connection off
            request.end()

    async def run(self) -> None:
        """Look at the fleet, and send a snapshot to every viewer, once a second, until cancelled."""
        while True:
            await asyncio.sleep(INTERVAL_S)
            self._snapshots.observe()
            if self._viewers:
                event = self._event()
                for viewer in list(self._viewers):
                    viewer.send(event)

    async def close(self) -> None:
        """Send a last snapshot to all viewers, and end their connections: this node stops."""
        if self._viewers:
            event = self._event()
            for viewer in self._viewers:
                viewer.send(event)
                viewer.ended.set()

    def _event(self) -> bytes:
        return sse.message(self._snapshots.encoded())
