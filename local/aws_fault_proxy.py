"""A proxy in front of the embedded AWS that lets services fail as AWS does.

A request names its service in its signature (`.../us-east-1/ec2/aws4_request`). The proxy forwards it, or answers as
the service's `Outage` has it.
"""

from __future__ import annotations

import asyncio
import re
import socket
from enum import Enum

import httpx

from node_agent.adapters.http_server import HttpServer
from node_agent.ports import ServerRequest

_SIGNED_SERVICE = re.compile(rb"Credential=[^/]+/\d+/[^/]+/([^/]+)/aws4_request")
_HOP_BY_HOP = frozenset({b"connection", b"transfer-encoding", b"content-length", b"expect"})
_RECOMPUTED_HEADERS = frozenset({"content-length", "transfer-encoding", "connection", "content-encoding", "date"})


class Outage(Enum):
    """How a failing service answers."""

    ERROR = "error"  # 500 with an empty body
    THROTTLED = "throttled"  # 503, slow down
    DENIED = "denied"  # 403, as after a change of a policy
    GARBAGE = "garbage"  # 200 with an invalid body
    SILENCE = "silence"  # it accepts the request and does not answer until the outage ends


_OUTAGE_RESPONSES = {
    Outage.ERROR: (500, b""),
    Outage.THROTTLED: (503, b"<Response><Errors><Error><Code>RequestLimitExceeded</Code></Error></Errors></Response>"),
    Outage.DENIED: (403, b"<Response><Errors><Error><Code>UnauthorizedOperation</Code></Error></Errors></Response>"),
    Outage.GARBAGE: (200, b"\xff\xfe<html>502 Bad Gateway"),
}


class AwsFaultProxy:
    """endpoint: of the AWS behind it. Call `start` in a running loop; `outages` has the services that fail now."""

    def __init__(self, endpoint: str) -> None:
        self.outages: dict[str, Outage] = {}
        self.failed_requests = 0
        self._endpoint = endpoint
        self._outage_ended = asyncio.Event()
        self._http = httpx.AsyncClient(timeout=60.0)
        self._server = HttpServer(self._handle)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self._listener.setblocking(False)

    @property
    def url(self) -> str:
        """The endpoint that AWS clients use, from construction on; it answers after `start`."""
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    async def start(self) -> None:
        """Begin to answer requests."""
        await self._server.start(self._listener)

    async def close(self) -> None:
        """Break off all connections and free the port."""
        self._server.abort()
        self._listener.close()
        await self._http.aclose()

    def start_outage(self, service: str, outage: Outage) -> None:
        """Let the service fail from now on. service: as signatures name it, such as ec2."""
        self.outages[service] = outage

    def end_outage(self, service: str) -> None:
        """End the outage of a service and forward its requests that have no answer yet."""
        self.outages.pop(service, None)
        # Another service may still be silent: its requests wait again, for the next end.
        self._outage_ended.set()
        self._outage_ended = asyncio.Event()

    async def _handle(self, request: ServerRequest) -> None:
        while (outage := self.outages.get(service_of(request))) is not None:
            self.failed_requests += 1
            if outage is not Outage.SILENCE:
                status, body = _OUTAGE_RESPONSES[outage]
                request.respond(status, body, b"text/xml")
                return
            await self._outage_ended.wait()
        await self._forward(request)

    async def _forward(self, request: ServerRequest) -> None:
        headers = [(name, value) for name, value in request.headers.items() if name not in _HOP_BY_HOP]
        try:
            answer = await self._http.request(
                request.method, self._endpoint + request.target, headers=headers, content=request.body
            )
        except httpx.TransportError:
            request.respond(502, b"")
            return
        kept = [
            (name.encode(), value.encode()) for name, value in answer.headers.items() if name not in _RECOMPUTED_HEADERS
        ]
        content_type = answer.headers.get("content-type", "text/xml").encode()
        more = [(name, value) for name, value in kept if name != b"content-type"]
        request.respond(answer.status_code, answer.content, content_type, more)


def service_of(request: ServerRequest) -> str:
    """Return the service that a signed request is for; empty if it is not signed."""
    found = _SIGNED_SERVICE.search(request.headers.get(b"authorization", b""))
    return found.group(1).decode("ascii", "replace") if found else ""
