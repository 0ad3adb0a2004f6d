"""Hold the streams whose clients are connected to this node, by stream id."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from node_agent.core.journal.stream_claim import StreamClaim, read_claim
from node_agent.runtime.client_api.client_stream import ClientStream
from node_agent.runtime.client_api.sse_response import COMMENT_EVERY_S
from node_agent.runtime.common.batches import batches
from node_agent.runtime.common.metrics import Metrics

_STREAMS_PER_TURN = 64
"""Streams that are visited in one turn of the event loop."""


class StreamRegistry:
    """Holds open streams. max_streams: how many there may be at once."""

    def __init__(self, metrics: Metrics, max_streams: int) -> None:
        self.max_streams = max_streams
        self._streams: dict[str, ClientStream] = {}
        metrics.streams.set_function(self.__len__)

    def __len__(self) -> int:
        return len(self._streams)

    def __iter__(self) -> Iterator[ClientStream]:
        return iter(list(self._streams.values()))

    @property
    def is_full(self) -> bool:
        """Whether a further stream is to be refused."""
        return len(self._streams) >= self.max_streams

    def add(self, stream: ClientStream) -> None:
        """Add a stream; it replaces an earlier connection's under the same id."""
        self._streams[stream.stream_id] = stream

    def remove(self, stream: ClientStream) -> None:
        """Remove a stream that is over; another one under its id stays."""
        if self._streams.get(stream.stream_id) is stream:  # a client that came back may have another one by now
            del self._streams[stream.stream_id]

    async def keep_alive(self) -> None:
        """Keep every client's connection alive, until cancelled."""
        while True:
            await asyncio.sleep(COMMENT_EVERY_S)
            await self._keep_all_alive()

    async def _keep_all_alive(self) -> None:
        """Visit each stream once.

        In a function of its own: a loop's variable would hold the last stream until the next one.
        """
        for batch in batches(list(self._streams), _STREAMS_PER_TURN):
            for stream_id in batch:
                if stream_id in self._streams:
                    self._streams[stream_id].keep_alive()
            await asyncio.sleep(0)

    def release(self, stream_id: str, claim: StreamClaim) -> None:
        """Release a stream to the connection or node that takes it over; another client's claim changes nothing."""
        stream = self._streams.get(stream_id)
        if stream is not None and read_claim(stream.journal.log.header).admits(claim):
            del self._streams[stream_id]
            stream.release()
