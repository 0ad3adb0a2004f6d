"""The fake engine in this process: its ASGI application behind the agent's own HTTP server."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

from local.fake_engine.config import Config
from local.fake_engine.server import FakeVllm
from node_agent.adapters.http_server import HttpServer, bind
from node_agent.ports import ServerRequest


class LocalEngine:
    """An EngineGroup in this loop. config: of the fake engine, a fast one where None.

    odd: raw bodies by path, sent in rotation instead of the engine's own; requested: how often each path was requested.
    """

    def __init__(self, host: str, port: int, model: str, config: Config | None = None) -> None:
        self._place = (host, port)
        self._app = FakeVllm(config or Config(model=model, seconds_per_token=0.01))
        self._server: HttpServer | None = None
        self._ended = asyncio.Event()
        self.odd: dict[str, list[bytes]] = {}
        self._request_counts: dict[str, int] = {}
        self.requested: Counter[str] = Counter()

    async def start(self) -> None:
        self._server = HttpServer(self._handle)
        await self._server.start(bind(*self._place, "engine"))

    async def wait(self) -> int:
        await self._ended.wait()
        return 0

    def last_output(self) -> str:
        return ""

    def had_oom_kill(self) -> bool:
        return False

    def is_suspended(self) -> bool:
        return False

    def note_shared_memory(self) -> None:
        """Do nothing, because it has no shared memory."""

    async def stop(self, grace_s: float) -> None:
        if self._server is not None:
            self._server.abort()
            self._server = None
            await asyncio.sleep(0)

    async def _handle(self, request: ServerRequest) -> None:
        self.requested[request.path] += 1
        if self.odd.get(request.path):
            count = self._request_counts[request.path] = self._request_counts.get(request.path, 0) + 1
            answers = self.odd[request.path]
            request.respond(200, answers[count % len(answers)], b"text/plain")
            return
        await _run(self._app, request)


async def _run(app: FakeVllm, request: ServerRequest) -> None:
    gone = asyncio.Event()
    request.when_gone(gone.set)
    bodies = [{"type": "http.request", "body": request.body, "more_body": False}]

    async def receive() -> Any:
        if bodies:
            return bodies.pop()
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(event: Any) -> None:
        if event["type"] == "http.response.start":
            headers = dict(event.get("headers", ()))
            kind = headers.pop(b"content-type", b"application/json")
            more = [(name, value) for name, value in headers.items() if name != b"content-length"]
            request.begin(event["status"], kind, more)
        elif event["type"] == "http.response.body":
            data = event.get("body", b"")
            if event.get("more_body"):
                request.write(data)
            else:
                request.end(data)

    scope: Any = {
        "type": "http", "method": request.method, "path": request.path, "headers": list(request.headers.items()),
        "query_string": b"", "extensions": {},
    }  # fmt: skip
    await app(scope, receive, send)
