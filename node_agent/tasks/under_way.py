"""A request at an engine that ends at once when its client leaves: before the answer's head as well as after.

An answer in one piece has no head before it is whole, so "after the head" would be too late: the engine would generate
for nobody.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from node_agent.ports import ExchangeLost, Response

CLIENT_GONE = "client-gone"


class UnderWay:
    """asking: what gives the response. `client_left` is for the one who watches the client's connection."""

    def __init__(self, asking: Coroutine[Any, Any, Response]) -> None:
        self._opening = asyncio.ensure_future(asking)
        self._left = False

    async def response(self) -> Response:
        """Raises ExchangeLost, with client-gone where that is why."""
        try:
            return await self._opening
        except asyncio.CancelledError:
            if self._left:
                raise ExchangeLost(CLIENT_GONE) from None
            raise

    def client_left(self) -> None:
        self._left = True
        if not self._opening.cancel() and self._opening.exception() is None:
            self._opening.result().abort(CLIENT_GONE)

    def close(self) -> None:
        if self._opening.done() and not self._opening.cancelled() and self._opening.exception() is None:
            self._opening.result().close()
