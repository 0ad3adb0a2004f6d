"""A request that is not continued: asked whole of one engine after another, until one of them answers.

Nothing reaches the client before an engine has answered in full or begun to stream, so a loss until then costs
latency only. A stream that Synkti does not continue (a transcription, a background response) is passed on as it comes;
a loss in its middle, also one that looks like an end (`core/endings`), ends it with an explicit error.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace

from node_agent.contract.errors import NoReadyPeer
from node_agent.contract.names import NODE_HEADER, ROUTE_HEADER
from node_agent.core.client_headers import to_client
from node_agent.core.endings import Ending, error_event
from node_agent.core.handing_over import HANDOFF, read_loss
from node_agent.core.router import Request, Route
from node_agent.ports import DoorRequest, ExchangeLost, Response
from node_agent.tasks.answers import error_body
from node_agent.tasks.engines import WRONG_MODEL, Engines
from node_agent.tasks.node import Node
from node_agent.tasks.reply import EVENT_STREAM

MAX_ENGINES = 3
MAX_TOTAL_S = 900.0
"""For all engines together; an answer that takes longer should be streamed."""

MAX_ANSWER_BYTES = 64 * 1024 * 1024
CLIENT_GONE = "client-gone"
_RETRY_AFTER_S = 2.0
_log = logging.getLogger(__name__)


class ClientGone(Exception):
    """The client closed its connection before it had its answer: nobody is there to be answered."""


@dataclass(frozen=True)
class WholeRequest:
    """What to ask. target: path and query; wanted: what routing has to know; max_tokens: None where unknown.

    generates: whether it is one of a model, which whoever serves the model has to answer.
    """

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes
    wanted: Request
    max_tokens: int | None = None
    generates: bool = False


class WholeRequests:
    """Answers WholeRequests at the engines of the fleet."""

    def __init__(self, node: Node, engines: Engines) -> None:
        self._node = node
        self._engines = engines
        self._under_way: set[Response] = set()
        self._is_closed = False

    def __len__(self) -> int:
        return len(self._under_way)

    def close_with_handoff(self) -> None:
        """This node goes: the clients are to ask another one."""
        self._is_closed = True
        for response in list(self._under_way):
            response.abort(HANDOFF)

    async def answer(self, request: WholeRequest, first: Route, client: DoorRequest) -> int:
        """The status that the client saw. Raises NoReadyPeer where engines ran out, ClientGone."""
        route: Route | None = first
        tried: list[str] = []
        clock = self._node.gossip.clock
        give_up_at = clock() + MAX_TOTAL_S
        while route is not None and len(tried) < MAX_ENGINES and clock() < give_up_at:
            tried.append(route.node.instance_id)
            try:
                return await self._one_engine(request, route, client)
            except ExchangeLost as lost:
                if client.is_gone:
                    raise ClientGone from lost
                if self._is_closed:
                    raise NoReadyPeer("This node is going; ask another one.", _RETRY_AFTER_S) from lost
                why, handed_to = read_loss(lost.why)
                _log.info("request to %s: lost %s: %s", request.target, route.node.instance_id, lost.why)
                self._node.metrics.losses.labels(why).inc()
                self._node.failed(route.node.instance_id, why)
                wanted = replace(request.wanted, tried=tried, avoid=route.node.pool, handed_to=handed_to, goes_on=True)
                found = self._node.route(wanted)
                route = found if isinstance(found, Route) else None
        raise NoReadyPeer(
            f"The request was lost by {len(tried)} nodes, and no other is ready; try again.", _RETRY_AFTER_S
        )

    async def _one_engine(self, request: WholeRequest, route: Route, client: DoorRequest) -> int:
        response = self._engines.ask(
            route.node,
            request.method,
            request.target,
            request.headers,
            request.body,
            max_tokens=request.max_tokens,
            silence_s=MAX_TOTAL_S,
        )
        self._under_way.add(response)
        client.when_gone(lambda: response.abort(CLIENT_GONE))
        try:
            await response.head()
            if response.status == 404 and request.generates:
                raise ExchangeLost(WRONG_MODEL)  # the node said that it serves the model
            status = await self._answer(response, route, client)
            self._node.succeeded(route.node.instance_id)
            return status
        finally:
            self._under_way.discard(response)
            response.close()

    async def _answer(self, response: Response, route: Route, client: DoorRequest) -> int:
        if response.status >= 500:
            raise ExchangeLost(f"status-{response.status}")
        if response.is_event_stream:
            await self._pass_on(response, client, _told(route))
        else:
            body = await response.read_all(MAX_ANSWER_BYTES)
            content_type, more = response.headers.get(b"content-type", b""), to_client(response.headers)
            client.respond(response.status, body, content_type, [*_told(route), *more])
        return response.status

    async def _pass_on(self, response: Response, client: DoorRequest, told: tuple[tuple[bytes, bytes], ...]) -> None:
        ending = Ending()
        first = ending.feed(await response.read())
        why = ending.why_lost
        if why is not None and not first.strip():
            raise ExchangeLost(why)  # nothing was sent yet: it may go elsewhere
        client.begin(response.status, EVENT_STREAM, told)
        client.write(first)
        client.when_congested(response.pause)
        try:
            await response.pipe(lambda data: client.write(ending.feed(data)))
            why = ending.why_lost
        except ExchangeLost as lost:
            if client.is_gone:
                raise ClientGone from lost
            why = lost.why
        client.end(self._explicit(client.path, why) if why is not None else b"")

    def _explicit(self, path: str, why: str) -> bytes:
        """The last event of a stream that was lost; the blank line ends what came half."""
        self._node.metrics.broken.labels("engine_lost").inc()
        message = f"The engine was lost ({why}), and this stream cannot be continued."
        return b"\n\n" + error_event(path, error_body(path, 503, "engine_lost", message))


def _told(route: Route) -> tuple[tuple[bytes, bytes], ...]:
    return ((ROUTE_HEADER.encode(), route.reason.encode()), (NODE_HEADER.encode(), route.node.instance_id.encode()))
