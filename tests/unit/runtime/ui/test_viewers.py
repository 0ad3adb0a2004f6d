"""Viewers: their bound, one that does not read, one that leaves, one whose key is revoked, and the end of the node."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

import pytest

from node_agent.contract.errors import NoReadyPeer, RequestRejected
from node_agent.core.snapshot.viewers import MAX_SKIPPED, MAX_VIEWERS
from node_agent.runtime.ui.snapshots import Snapshots
from node_agent.runtime.ui.viewers import Viewers
from node_agent.testing.fake_requests import MemoryRequest
from tests.borders.virtual_time import run_virtual


class CountedSnapshots:
    """Snapshots that are numbers. made: how many."""

    def __init__(self) -> None:
        self.made = 0

    def observe(self) -> None:
        pass

    def encoded(self) -> bytes:
        self.made += 1
        return b"{%d}" % self.made


class Watched:
    """Viewers, and the tasks that serve them."""

    def __init__(self) -> None:
        self.snapshots = CountedSnapshots()
        self.viewers = Viewers(cast("Snapshots", self.snapshots))
        self._running = asyncio.create_task(self.viewers.run())

    def add(self, check_key: Callable[[], None] = lambda: None) -> tuple[MemoryRequest, asyncio.Task[None]]:
        request = MemoryRequest()
        return request, asyncio.create_task(self.viewers.serve(request, check_key))

    def stop(self) -> None:
        self._running.cancel()


def test_a_viewer_receives_one_at_once_and_one_a_second_until_it_leaves() -> None:
    async def story() -> None:
        watched = Watched()
        request, serving = watched.add()
        await asyncio.sleep(3.5)
        assert request.sent == [b"data: {%d}\n\n" % number for number in (1, 2, 3, 4)]
        request.disconnect()
        await serving
        assert len(watched.viewers) == 0
        await asyncio.sleep(5)
        assert watched.snapshots.made == 4, "nobody watches, so none is made"
        watched.stop()

    run_virtual(story, sockets=False)


def test_all_viewers_receive_the_same_snapshot() -> None:
    async def story() -> None:
        watched = Watched()
        requests = [watched.add()[0] for _ in range(MAX_VIEWERS)]
        await asyncio.sleep(0.5)
        before = watched.snapshots.made
        await asyncio.sleep(1)
        assert watched.snapshots.made == before + 1
        assert len({request.sent[-1] for request in requests}) == 1
        refused, serving = watched.add()
        with pytest.raises(RequestRejected, match="16 viewers"):
            await serving
        assert refused.status == 0
        watched.stop()

    run_virtual(story, sockets=False)


def test_one_that_does_not_read_is_cut_off_and_holds_one_snapshot_at_most() -> None:
    async def story() -> None:
        watched = Watched()
        request, serving = watched.add()
        await asyncio.sleep(0.5)
        request.set_congested(True)
        await asyncio.sleep(MAX_SKIPPED + 2)
        assert serving.done()
        assert len(request.sent) == 1
        assert not request.is_ended, "the server cuts off what has no end"
        assert len(watched.viewers) == 0
        watched.stop()

    run_virtual(story, sockets=False)


def test_a_revoked_key_ends_the_snapshots_and_keys_that_cannot_be_read_only_pause_them() -> None:
    async def story() -> None:
        watched = Watched()
        errors: list[Exception] = []

        def check_key() -> None:
            if errors:
                raise errors[0]

        request, serving = watched.add(check_key)
        await asyncio.sleep(0.5)
        errors[:] = [NoReadyPeer("away", 2.0)]
        await asyncio.sleep(2)
        assert len(request.sent) == 1
        errors[:] = [RequestRejected(401, "invalid_api_key", "no")]
        await asyncio.sleep(1)
        assert serving.done()
        assert request.sent[1:] == [b"event: revoked\ndata: invalid_api_key\n\n"]
        assert request.is_ended
        watched.stop()

    run_virtual(story, sockets=False)


def test_a_node_that_stops_ends_every_viewer_with_a_last_snapshot() -> None:
    async def story() -> None:
        watched = Watched()
        request, serving = watched.add()
        await asyncio.sleep(0.5)
        await watched.viewers.close()
        await serving
        assert len(request.sent) == 2
        assert request.is_ended
        watched.stop()

    run_virtual(story, sockets=False)
