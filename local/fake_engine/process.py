"""Runs the fake engine as a process that ends as vLLM does, not as uvicorn does."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import struct
from collections.abc import Iterator

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from local.fake_engine.config import Config
from local.fake_engine.responder import RESET, Responder
from local.fake_engine.server import FakeVllm

_MAX_HANG_S = 60.0
"""How long a stream hangs after the shutdown timeout; in vLLM it hangs for ever."""


class _Protocol(HttpToolsProtocol):
    """uvicorn's protocol, with an extension that lets the application reset the connection."""

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = {RESET: self._reset}  # type: ignore[dict-item] # ASGI's own extensions are dicts

    def _reset(self) -> None:
        # A copy of the descriptor, because event loops permit only reads of theirs; the option is the socket's.
        with socket.socket(fileno=os.dup(self.transport.get_extra_info("socket").fileno())) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: SIGTERM has vLLM's behaviour."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve(config: Config, host: str, port: int) -> None:
    """Serve until SIGTERM or SIGINT, and then as long as the shutdown timeout allows."""
    app = FakeVllm(config)
    server = _Server(
        uvicorn.Config(
            app, host=host, port=port, log_config=None, access_log=False, lifespan="off", ws="none", http=_Protocol
        )
    )
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, app.responder.terminating.set)
    serving = asyncio.create_task(server.serve())
    ending = asyncio.create_task(_wait_for_end(app.responder, config))
    await asyncio.wait({serving, ending}, return_when=asyncio.FIRST_COMPLETED)
    server.force_exit = server.should_exit = True
    await serving


async def _wait_for_end(responder: Responder, config: Config) -> None:
    await responder.terminating.wait()
    await _wait_until_idle(responder, config.shutdown_timeout_s)
    responder.drain_expired.set()
    await _wait_until_idle(responder, _MAX_HANG_S if config.shutdown_timeout_s > 0 else 1.0)


async def _wait_until_idle(responder: Responder, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await responder.idle.wait()
