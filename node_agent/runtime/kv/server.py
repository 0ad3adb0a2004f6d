"""Serve the blocks of handed-off streams to peers. Part of the peer API, which authenticates the requests.

    GET  /peer/v1/kv/of/<stream>   the index of a stream's local blocks, 404 where there are none
    POST /peer/v1/kv/blocks        blocks by name, one behind the other, up to the first missing one

A draining node waits a moment for the nodes that fetch what it handed off; the hand-offs began with the longest.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from node_agent.contract.names import KV_PREFIX
from node_agent.core.kv.index import BATCH_BYTES, is_stream_id, parse_names
from node_agent.ports import ServerRequest
from node_agent.runtime.common.responses import answer_error
from node_agent.runtime.kv.local_blocks import LocalBlocks

INDEX_OF = KV_PREFIX + "of/"
BLOCKS = KV_PREFIX + "blocks"

TRANSFER_TIMEOUT_S = 2.0
"""How long a draining node waits for the next engine's node to fetch a context, and after each of its requests."""

MAX_CONCURRENCY = 8
"""Each response holds a batch in memory until its peer has received it; a draining node has many peers."""

SEND_TIMEOUT_S = 2.0
"""A peer that does not receive a batch in that time is disconnected: others wait for its slot. Its own timeout is the
same.
"""


class BlockServer:
    """Serves blocks.

    local_blocks: None where this node's engine stores no blocks.
    clock: seconds, monotonic.
    """

    def __init__(self, local_blocks: LocalBlocks | None, clock: Callable[[], float]) -> None:
        self._local_blocks = local_blocks
        self._clock = clock
        self._slots = asyncio.Semaphore(MAX_CONCURRENCY)
        self._pending_until: dict[str, float] = {}  # stream -> deadline of its fetch

    async def answer(self, request: ServerRequest) -> None:
        """Answer a peer's request below KV_PREFIX; 404 where this node has no blocks, or no such route."""
        target = request.target
        if self._local_blocks is None:
            answer_error(request, 404, "no_blocks", "This node keeps no blocks.")
        elif target.startswith(INDEX_OF):
            await self._index(self._local_blocks, request, target.removeprefix(INDEX_OF))
        elif target == BLOCKS:
            await self._blocks(self._local_blocks, request)
        else:
            answer_error(request, 404, "unknown_route", f"The peer API has no {target}.")

    async def _index(self, local_blocks: LocalBlocks, request: ServerRequest, stream: str) -> None:
        index = await local_blocks.index(stream) if is_stream_id(stream) else None
        if index is None:
            self._pending_until.pop(stream, None)
            answer_error(request, 404, "no_blocks", "This node has no blocks of that stream.")
            return
        self._extend_deadlines()
        request.respond(200, index.to_bytes())

    async def _blocks(self, local_blocks: LocalBlocks, request: ServerRequest) -> None:
        try:
            names = parse_names(request.body)
        except ValueError as error:
            answer_error(request, 400, "invalid_blocks", f"Not a list of blocks: {error}.")
            return
        async with self._slots:
            found = await local_blocks.read(names, BATCH_BYTES)
            self._extend_deadlines()
            monitor = _SendMonitor(request)
            request.begin(200, b"application/octet-stream")
            request.write(found)
            if await monitor.wait():
                request.end()  # else the response is cut, and its peer computes what is missing
            self._extend_deadlines()

    def _extend_deadlines(self) -> None:
        """Extend all deadlines: a peer is fetching, and none that waits behind it expires meanwhile."""
        until = self._clock() + TRANSFER_TIMEOUT_S
        self._pending_until = dict.fromkeys(self._pending_until, until)

    def handed_off(self, streams: Iterable[str]) -> None:
        """Record handed-off streams: another node may fetch their blocks."""
        if self._local_blocks is not None:
            self._pending_until |= dict.fromkeys(filter(is_stream_id, streams), self._clock() + TRANSFER_TIMEOUT_S)

    def pending_transfers(self) -> int:
        """Return the number of contexts that may still be fetched: a draining node does not end before."""
        now = self._clock()
        self._pending_until = {stream: until for stream, until in self._pending_until.items() if until > now}
        return len(self._pending_until)


class _SendMonitor:
    """Monitors whether a peer receives what it is sent."""

    def __init__(self, request: ServerRequest) -> None:
        self._free = asyncio.Event()
        self._free.set()
        self._request = request
        request.when_congested(self._congested)
        request.when_gone(self._free.set)

    def _congested(self, is_congested: bool) -> None:
        (self._free.clear if is_congested else self._free.set)()

    async def wait(self) -> bool:
        """Wait until the peer has received enough; False where it does not, or is gone."""
        try:
            async with asyncio.timeout(SEND_TIMEOUT_S):
                await self._free.wait()
        except TimeoutError:
            return False
        return not self._request.is_gone
