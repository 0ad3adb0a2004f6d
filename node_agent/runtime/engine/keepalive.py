"""Send keep-alives on peers' requests to this node's engine while the engine sends nothing on them.

An entry cannot see whether a silent stream waits in a working engine, or its engine node is frozen. So the engine node
sends keep-alives: about twice a second on each silent request, while its engine is not stuck (then its requests are
lost, see `runtime/engine/watchdog`). The entry still measures the silence of the node.

    HTTP/1.1 102 Processing       before the answer has begun
    :                             between two events of a stream: the engine works, or is slow
    : overtaken                   the engine has served others since this stream's last token, and nothing explains it
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

from node_agent.contract.names import SIGNS_HEADER
from node_agent.ports import ServerRequest
from node_agent.runtime.engine.engine_call import EngineCall

KEEPALIVE = b":\n\n"
OVERTAKEN = b": overtaken\n\n"
KEEPALIVES = (KEEPALIVE, OVERTAKEN)
_ANNOUNCEMENT = ((SIGNS_HEADER, b"1"),)


def without_keepalives(data: bytes) -> bytes:
    """Strip keep-alives from data of a stream, for a client that receives it unchanged; they come between events."""
    while data.startswith(KEEPALIVES):
        data = data.removeprefix(OVERTAKEN).removeprefix(KEEPALIVE)
    return data


class KeepAliveRequest:
    """One request of a peer. interval_s: between two keep-alives."""

    def __init__(self, request: ServerRequest, interval_s: float) -> None:
        self._request = request
        self._interval_s = interval_s
        self._call: EngineCall | None = None
        self._last_data = b"\n\n"
        self._has_begun = False

    def attach(self, call: EngineCall) -> None:
        """Set the engine's side of the request; from now on a keep-alive is sent only while that is silent."""
        self._call = call

    def write(self, data: bytes) -> None:
        """Relay the engine's data to the peer."""
        self._last_data = data
        self._request.write(data)

    def on_begun(self) -> None:
        """Record that the head of a stream was sent."""
        self._has_begun = True

    def send_if_silent(self, now: float) -> None:
        """Send a keep-alive where nothing was sent for a while, unless it would split an event."""
        call = self._call
        if call is not None and (call.is_paused or now - call.last_read_at < self._interval_s):
            return
        if not self._has_begun:
            self._request.accept()
        elif self._last_data.endswith(b"\n\n"):
            self._request.write(OVERTAKEN if call is not None and call.is_overtaken else KEEPALIVE)


class KeepAlives:
    """All active requests of peers. interval_s: between two keep-alives."""

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._requests: set[KeepAliveRequest] = set()

    @contextlib.contextmanager
    def track(self, request: ServerRequest) -> Iterator[KeepAliveRequest]:
        """Accept a request, and send keep-alives on it until the block ends."""
        request.accept(_ANNOUNCEMENT)
        shown = KeepAliveRequest(request, self._interval_s)
        self._requests.add(shown)
        try:
            yield shown
        finally:
            self._requests.discard(shown)

    async def run(self) -> None:
        """Send keep-alives, until cancelled."""
        clock = asyncio.get_running_loop().time
        while True:
            await asyncio.sleep(self._interval_s)
            self._send_all(clock())

    def _send_all(self, now: float) -> None:
        """Visit each request once.

        In a function of its own: a loop's variable would hold the last request until the next one.
        """
        for shown in tuple(self._requests):
            shown.send_if_silent(now)
