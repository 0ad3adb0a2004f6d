"""Admit requests: one that no node can take now waits its key's turn for a bounded time, or gets a 429.

`core/routing/admission` decides; this module holds the waiting requests and the loop that retries them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from node_agent.contract.errors import FleetFull, NoReadyPeer, RequestRejected
from node_agent.core.routing.admission import Admission, Rejection, Ticket
from node_agent.core.routing.router import NoRoute, Route, RouteRequest
from node_agent.ports import ServerRequest
from node_agent.runtime.client_api.buffered_request import ClientGone
from node_agent.runtime.node.context import NodeContext

POLL_INTERVAL_S = 0.05
_RETRY_AFTER_S = 2.0
_MAX_NAME_CHARS = 100
"""Characters of an unknown model's name that the error repeats."""


class Admitted(NamedTuple):
    """An admitted request. paid: the tokens that its key's turns have paid for it, 0 where it did not wait."""

    route: Route
    paid: int = 0


class _Waiting:
    """A request in the queue. key: of its caller."""

    def __init__(self, request: RouteRequest, key: str) -> None:
        self.request = request
        self.key = key
        self.route: asyncio.Future[Admitted] = asyncio.get_running_loop().create_future()

    def cancel(self) -> None:
        if not self.route.done():
            self.route.set_exception(ClientGone())


class AdmissionQueue:
    """Holds requests until a node has room for them.

    chance: uniform in [0, 1), so that rejected clients do not all return at the same time.
    """

    def __init__(self, node: NodeContext, chance: Callable[[], float], admission: Admission | None = None) -> None:
        self._node = node
        self._chance = chance
        self._now = node.gossip.monotonic
        self._admission = Admission() if admission is None else admission
        self._waiting: dict[int, _Waiting] = {}
        self._has_waiting = asyncio.Event()
        node.metrics.waiting.set_function(self._waiting.__len__)

    async def route(self, request: RouteRequest, client: ServerRequest, key: str = "", weight: int = 1) -> Admitted:
        """Return the route of a request, at once or after a wait.

        key: of its caller, "" for all without one; weight: its estimated tokens, by which waiting keys take turns.

        Raises FleetFull, NoReadyPeer, ClientGone, and RequestRejected (404) where nodes are ready but none serves the
        model.
        """
        if not self._node.serves(request.model):
            raise self._no_route_error(request)
        if (
            self._admission.may_bypass_queue()
        ):  # checked first: to choose a node may be its one trial, which must then be made
            route = self._node.route(request)
            if isinstance(route, Route):
                self._admission.admitted(self._now())
                return Admitted(route)
        return await self._wait(request, client, key, weight)

    def used(self, key: str, tokens: int, paid: int) -> None:
        """Record the tokens that an admitted request used, beside what its key has paid: its next turns settle that."""
        self._admission.used(key, tokens, paid)

    def give_back(self, key: str, paid: int) -> None:
        """Return what a key has paid for a request that no node has served."""
        self._admission.give_back(key, paid)

    async def _wait(self, request: RouteRequest, client: ServerRequest, key: str, weight: int) -> Admitted:
        ticket = self._admission.enqueue(self._now(), self._chance(), key, weight)
        self._reject_displaced()
        if isinstance(ticket, Rejection):
            raise _full(ticket)
        waiting = self._waiting[ticket.number] = _Waiting(request, key)
        client.when_gone(waiting.cancel)
        self._has_waiting.set()
        try:
            return await waiting.route
        finally:
            del self._waiting[ticket.number]
            self._admission.cancel(ticket)
            del waiting  # its error has this frame, which would hold it: with the request's body, for ever

    async def run(self) -> None:
        """Admit waiting requests, until cancelled."""
        while True:
            await self._has_waiting.wait()
            while (ticket := self._admission.next) is not None:
                if self._try_admit(ticket):
                    await asyncio.sleep(0)  # its task runs: the next decision counts it at its node
                else:
                    self._reject_overdue(self._now())  # not before: one that is overdue has no turn of its own
                    await asyncio.sleep(POLL_INTERVAL_S)
            self._has_waiting.clear()

    def _try_admit(self, ticket: Ticket) -> bool:
        """Try to route the first waiting request; return whether it left the queue."""
        waiting = self._waiting.get(ticket.number)
        if waiting is None or waiting.route.done():
            self._admission.cancel(ticket)
            return True
        route = self._node.route(waiting.request)
        if route is NoRoute.FULL:
            return False
        if isinstance(route, Route):
            self._admission.admitted(self._now(), ticket)
            waiting.route.set_result(Admitted(route, ticket.weight))
        else:
            self._admission.cancel(ticket)
            waiting.route.set_exception(self._no_route_error(waiting.request))
        return True

    def _reject_overdue(self, now: float) -> None:
        for ticket in self._admission.pop_expired(now):
            waiting = self._waiting.get(ticket.number)
            if waiting is None or waiting.route.done():
                continue
            # Rather than none at all, a node whose breaker is open: the others are full, and it may do by now.
            route = self._node.route(replace(waiting.request, last_resort=True))
            if isinstance(route, Route):
                self._admission.admitted(now)
                waiting.route.set_result(Admitted(route))
            else:
                rejection = self._admission.timeout_rejection(now, self._chance(), waiting.key)
                waiting.route.set_exception(_full(rejection))

    def _reject_displaced(self) -> None:
        for ticket in self._admission.displaced():
            waiting = self._waiting.get(ticket.number)
            if waiting is not None and not waiting.route.done():
                rejection = self._admission.displaced_rejection(self._now(), self._chance(), waiting.key)
                waiting.route.set_exception(_full(rejection))

    def _no_route_error(self, request: RouteRequest) -> NoReadyPeer | RequestRejected:
        models = sorted(self._node.models())
        if not models or request.model == self._node.model:  # this node's own: it is on its way
            return NoReadyPeer("No node of the fleet is ready to serve; try again shortly.", _RETRY_AFTER_S)
        have = ", ".join(models)
        name = repr(request.model if request.model is None else request.model[:_MAX_NAME_CHARS])
        return RequestRejected(404, "model_not_found", f"The model {name} does not exist; served: {have}.", "model")


def _full(refused: Rejection) -> FleetFull:
    messages = {
        "queue-full": "No node has room, and as many requests wait here as may",
        "key-full": "No node has room, and as many requests of this key wait here as may while other keys wait",
        "waited-too-long": "No node had room for this request in time",
    }
    return FleetFull(f"{messages[refused.reason]}; try again in {refused.retry_after_s:.0f} s.", refused.retry_after_s)
