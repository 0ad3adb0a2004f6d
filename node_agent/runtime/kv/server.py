"""What peers come for: the blocks of a stream that went on with them. Part of the peer door, which knows who asks.

    GET  /peer/v1/kv/of/<stream>   the index of what is here of a stream, 404 where nothing is
    POST /peer/v1/kv/blocks        blocks by their names, one behind the other, as far as they are here

A node that drains waits a moment for those who come for what it handed off; the hand-offs began with the longest.
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

COME_WITHIN_S = 2.0
"""How long a draining node waits for the next engine's node to come for a context, and after each of its requests."""

ANSWERS_AT_ONCE = 8
"""Each holds a batch in memory until its peer has taken it; the peers of a node that drains are many."""

TAKEN_WITHIN_S = 2.0
"""A peer that does not take a batch in that time is cut off: others wait for its place. Its own patience is as long."""


class BlockServer:
    """shelf: None where this node's engine keeps no blocks. clock: seconds, monotonic."""

    def __init__(self, shelf: LocalBlocks | None, clock: Callable[[], float]) -> None:
        self._shelf = shelf
        self._clock = clock
        self._room = asyncio.Semaphore(ANSWERS_AT_ONCE)
        self._owed: dict[str, float] = {}  # stream -> until when somebody is waited for

    async def answer(self, request: ServerRequest) -> None:
        target = request.target
        if self._shelf is None:
            answer_error(request, 404, "no_blocks", "This node keeps no blocks.")
        elif target.startswith(INDEX_OF):
            await self._index(self._shelf, request, target.removeprefix(INDEX_OF))
        elif target == BLOCKS:
            await self._blocks(self._shelf, request)
        else:
            answer_error(request, 404, "unknown_route", f"The peer door has no {target}.")

    async def _index(self, shelf: LocalBlocks, request: ServerRequest, stream: str) -> None:
        index = await shelf.index(stream) if is_stream_id(stream) else None
        if index is None:
            self._owed.pop(stream, None)
            answer_error(request, 404, "no_blocks", "This node has no blocks of that stream.")
            return
        self._later()
        request.respond(200, index.to_bytes())

    async def _blocks(self, shelf: LocalBlocks, request: ServerRequest) -> None:
        try:
            names = parse_names(request.body)
        except ValueError as error:
            answer_error(request, 400, "invalid_blocks", f"Not a question for blocks: {error}.")
            return
        async with self._room:
            found = await shelf.read(names, BATCH_BYTES)
            self._later()
            taken = _Taken(request)
            request.begin(200, b"application/octet-stream")
            request.write(found)
            if await taken.wait():
                request.end()  # else it is broken off, and its peer computes what is missing
            self._later()

    def _later(self) -> None:
        """Somebody is at it: nobody who is waited for is given up meanwhile."""
        until = self._clock() + COME_WITHIN_S
        self._owed = dict.fromkeys(self._owed, until)

    def handed_off(self, streams: Iterable[str]) -> None:
        """These go on elsewhere; somebody may come for their blocks."""
        if self._shelf is not None:
            self._owed |= dict.fromkeys(filter(is_stream_id, streams), self._clock() + COME_WITHIN_S)

    def owed(self) -> int:
        """Contexts that somebody may still come for: a node that drains is not to end before."""
        now = self._clock()
        self._owed = {stream: until for stream, until in self._owed.items() if until > now}
        return len(self._owed)


class _Taken:
    """Whether a peer takes what it is sent."""

    def __init__(self, request: ServerRequest) -> None:
        self._free = asyncio.Event()
        self._free.set()
        self._request = request
        request.when_congested(self._congested)
        request.when_gone(self._free.set)

    def _congested(self, lags: bool) -> None:
        (self._free.clear if lags else self._free.set)()

    async def wait(self) -> bool:
        """False where it does not, or is gone."""
        try:
            async with asyncio.timeout(TAKEN_WITHIN_S):
                await self._free.wait()
        except TimeoutError:
            return False
        return not self._request.is_gone
