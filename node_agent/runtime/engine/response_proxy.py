"""Wrap an exchange with an engine, for classes that add something to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from node_agent.core.failure.loss import Loss
from node_agent.ports import Response


class ResponseProxy:
    """The Response port over another Response, which it calls for everything that a subclass does not override."""

    def __init__(self, exchange: Response) -> None:
        self.exchange = exchange

    @property
    def first_read_at(self) -> float:
        """Loop time of the first bytes, 0 before any."""
        return self.exchange.first_read_at

    @property
    def last_read_at(self) -> float:
        """Loop time of the last bytes, 0 before any."""
        return self.exchange.last_read_at

    @property
    def reads(self) -> int:
        """How many times bytes arrived."""
        return self.exchange.reads

    @property
    def status(self) -> int:
        """The HTTP status, once `head` has returned."""
        return self.exchange.status

    @property
    def headers(self) -> Mapping[bytes, bytes]:
        """The headers by lower-case names, once `head` has returned."""
        return self.exchange.headers

    @property
    def is_event_stream(self) -> bool:
        """Whether the body is server-sent events, once `head` has returned."""
        return self.exchange.is_event_stream

    async def head(self) -> None:
        """Wait for the head. Raises ExchangeLost."""
        await self.exchange.head()

    async def read(self) -> bytes:
        """Return what arrived since the last read, b"" at the end. Raises ExchangeLost."""
        return await self.exchange.read()

    async def read_all(self, max_bytes: int) -> bytes:
        """Return the whole body. Raises ExchangeLost, also where it is larger than `max_bytes`."""
        return await self.exchange.read_all(max_bytes)

    async def pipe(self, sink: Callable[[bytes], None]) -> None:
        """Pass data to `sink` as it arrives, until the end. Raises ExchangeLost."""
        await self.exchange.pipe(sink)

    def pause(self, paused: bool) -> None:
        """Stop reading from the connection, or continue; a pause does not count as silence."""
        self.exchange.pause(paused)

    def set_read_timeout(self, seconds: float) -> None:
        """Lose the exchange after a silence of `seconds` from now on."""
        self.exchange.set_read_timeout(seconds)

    def end_within(self, seconds: float) -> None:
        """Bound the wait for the end, of which nothing more is needed, in seconds."""
        self.exchange.end_within(seconds)

    def abort(self, loss: Loss) -> None:
        """Lose the exchange: a waiting caller gets ExchangeLost(why)."""
        self.exchange.abort(loss)

    def close(self) -> None:
        """Finish the use of the response, which always needs it; an incomplete one closes its connection."""
        self.exchange.close()
