"""The stand-in as a process: its server, and its end, which is vLLM's and not uvicorn's."""

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

from local.fake_engine.server import RESET, Config, FakeVllm

_MAX_HANG_S = 60.0
"""How long a stream hangs after the shutdown timeout; a real one hangs for ever."""


class _Protocol(HttpToolsProtocol):
    """uvicorn's, which lets its application reset the connection."""

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = {RESET: self._reset}  # type: ignore[dict-item] # ASGI's own extensions are dicts

    def _reset(self) -> None:
        # A copy of the descriptor, because event loops lend theirs for looking only; the option is the socket's.
        with socket.socket(fileno=os.dup(self.transport.get_extra_info("socket").fileno())) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()


class _Server(uvicorn.Server):
    """uvicorn whose end is the stand-in's: SIGTERM is vLLM's story, not uvicorn's."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve(config: Config, host: str, port: int) -> None:
    """Until SIGTERM or SIGINT, and what they allow afterwards."""
    app = FakeVllm(config)
    server = _Server(
        uvicorn.Config(
            app, host=host, port=port, log_config=None, access_log=False, lifespan="off", ws="none", http=_Protocol
        )
    )
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, app.terminating.set)
    serving = asyncio.create_task(server.serve())
    ending = asyncio.create_task(_wait_for_end(app, config))
    await asyncio.wait({serving, ending}, return_when=asyncio.FIRST_COMPLETED)
    server.force_exit = server.should_exit = True
    await serving


async def _wait_for_end(app: FakeVllm, config: Config) -> None:
    await app.terminating.wait()
    await _wait_until_idle(app, config.shutdown_timeout_s)
    app.drain_expired.set()
    await _wait_until_idle(app, _MAX_HANG_S if config.shutdown_timeout_s > 0 else 1.0)


async def _wait_until_idle(app: FakeVllm, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await app.idle.wait()
