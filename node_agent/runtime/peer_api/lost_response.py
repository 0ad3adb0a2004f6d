"""The response to a request that was not sent."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from node_agent.core.failure.loss import Loss
from node_agent.ports import ExchangeLost


class LostResponse:
    """The Response port where every wait raises ExchangeLost with the same loss."""

    first_read_at = 0.0
    last_read_at = 0.0
    reads = 0
    status = 0
    is_event_stream = False

    def __init__(self, loss: Loss) -> None:
        self._loss = loss
        self.headers: Mapping[bytes, bytes] = {}

    async def head(self) -> None:
        """Raise ExchangeLost."""
        raise ExchangeLost(self._loss)

    async def read(self) -> bytes:
        """Raise ExchangeLost."""
        raise ExchangeLost(self._loss)

    async def read_all(self, max_bytes: int) -> bytes:
        """Raise ExchangeLost."""
        raise ExchangeLost(self._loss)

    async def pipe(self, sink: Callable[[bytes], None]) -> None:
        """Raise ExchangeLost."""
        raise ExchangeLost(self._loss)

    def pause(self, paused: bool) -> None:
        """Do nothing: nothing is read."""

    def set_read_timeout(self, seconds: float) -> None:
        """Do nothing: nothing is waited for."""

    def end_within(self, seconds: float) -> None:
        """Do nothing: it has ended."""

    def abort(self, loss: Loss) -> None:
        """Do nothing: it has ended."""

    def close(self) -> None:
        """Do nothing: there is no connection."""
