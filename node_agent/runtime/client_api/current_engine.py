"""Hold the response of the engine that answers a stream now, and what also applies to its next engine."""

from __future__ import annotations

from node_agent.core.failure.loss import LossReason
from node_agent.core.routing.router import Route
from node_agent.ports import Response


class CurrentEngine:
    """The engine that answers a stream now; between two engines there is no response."""

    def __init__(self) -> None:
        self.route: Route | None = None
        """To the current engine, or to the last one."""

        self.response: Response | None = None
        self.is_closed = False
        """True where the stream needs no engine any more: a response that is set later is aborted at once."""

        self._is_paused = False

    def set(self, route: Route, response: Response) -> None:
        """Set the engine that answers from now on."""
        self.route, self.response = route, response
        if self.is_closed:
            response.abort(LossReason.CLOSED)  # before there was anything to abort
        response.pause(self._is_paused)

    def release(self) -> None:
        """Release the response."""
        response, self.response = self.response, None
        if response is not None:
            response.close()

    def pause(self, paused: bool) -> None:
        """Pause this engine and the next ones while the client reads more slowly than they generate; or resume."""
        self._is_paused = paused
        if self.response is not None:
            self.response.pause(paused)

    def close(self) -> None:
        """Abort the response: the stream ends here."""
        self.is_closed = True
        self.abort(LossReason.CLOSED)

    def abort(self, reason: LossReason) -> None:
        """Abort the response, if there is one."""
        if self.response is not None:
            self.response.abort(reason)
