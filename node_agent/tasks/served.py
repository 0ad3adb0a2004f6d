"""What this node's engine is serving: for its own clients and, through the peer door, for those of other nodes.

Every request to the local engine passes here, so that the drain planner knows all of them and can hand each one back
to its entry: its reader then loses the exchange with `handoff`, and the entry goes on elsewhere.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping
from dataclasses import dataclass

from node_agent.core import drain
from node_agent.core.addresses import Address
from node_agent.core.drain import ServedStream
from node_agent.core.stream import HANDOFF
from node_agent.ports import ExchangeLost, Http, Response
from node_agent.tasks.node import Node


@dataclass
class Served:
    """One request at the local engine. A Response itself."""

    registry: ServedRequests
    key: int
    max_tokens: int | None
    opening: asyncio.Future[Response] | None = None
    exchange: Response | None = None
    tokens: int = 0
    handed_off: bool = False
    _counted_at: float = 0.0

    @property
    def status(self) -> int:
        return self._open.status

    @property
    def headers(self) -> Mapping[bytes, bytes]:
        return self._open.headers

    @property
    def is_event_stream(self) -> bool:
        return self._open.is_event_stream

    @property
    def _open(self) -> Response:
        if self.exchange is None:
            raise RuntimeError("the request has no response yet")
        return self.exchange

    async def read(self) -> bytes:
        data = await self._open.read()
        if data and self.is_event_stream:
            self._count(data.count(b"\ndata: ") + data.startswith(b"data: "))
        return data

    def _count(self, events: int) -> None:
        now = asyncio.get_running_loop().time()
        if self.tokens and events:
            self.registry.node.pace.observe((now - self._counted_at) / events)
        self._counted_at = now
        self.tokens += events

    async def read_all(self, max_bytes: int) -> bytes:
        return await self._open.read_all(max_bytes)

    def allow_silence(self, seconds: float) -> None:
        self._open.allow_silence(seconds)

    def abort(self, why: str) -> None:
        self._open.abort(why)

    def close(self) -> None:
        self.registry.forget(self)
        if self.exchange is not None:
            self.exchange.close()


class ServedRequests:
    """All requests at the local engine, by a key that only grows."""

    def __init__(self, node: Node, client: Http, engine: Address) -> None:
        self.node = node
        self._client = client
        self._engine = engine
        self._keys = itertools.count(1)
        self._served: dict[int, Served] = {}

    def __len__(self) -> int:
        return len(self._served)

    async def open(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: bytes,
        max_tokens: int | None,
        silence_s: float,
    ) -> Served:
        """Ask the engine. Raises ExchangeLost, with `handoff` where the node began to drain meanwhile."""
        served = Served(self, next(self._keys), max_tokens)
        self._served[served.key] = served
        self._update()
        asking = self._client.open(self._engine, method, target, headers=headers, body=body, silence_s=silence_s)
        served.opening = asyncio.ensure_future(asking)
        try:
            served.exchange = await served.opening
        except asyncio.CancelledError:
            self.forget(served)
            if served.handed_off:
                raise ExchangeLost(HANDOFF) from None
            raise
        except ExchangeLost:
            self.forget(served)
            raise
        if served.handed_off:
            served.close()
            raise ExchangeLost(HANDOFF)
        return served

    def forget(self, served: Served) -> None:
        self._served.pop(served.key, None)
        self._update()

    def _update(self) -> None:
        self.node.in_flight = len(self._served)
        self.node.metrics.served.set(len(self._served))

    def plan(self, now: float, deadline: float) -> drain.DrainPlan:
        """What the drain planner says of what is served now."""
        pace = self.node.pace.time_per_token_s
        streams = [
            ServedStream(s.key, None if s.max_tokens is None else max(0, s.max_tokens - s.tokens), pace)
            for s in self._served.values()
            if not s.handed_off
        ]
        return drain.plan(streams, now, deadline)

    def hand_off(self, key: int) -> None:
        """Give one request back to its entry."""
        served = self._served.get(key)
        if served is None or served.handed_off:
            return
        served.handed_off = True
        if served.exchange is not None:
            served.exchange.abort(HANDOFF)
        elif served.opening is not None:
            served.opening.cancel()  # an answer in one piece has no head before it is whole

    def hand_off_all(self) -> None:
        """Give every request back."""
        for key in list(self._served):
            self.hand_off(key)
