"""Run vLLM in a systemd unit and as a user of its own, through that unit's launcher.

The unit's socket starts `node_agent/engine_launcher` as the engine's user (stacks/boot/synkti-engine.service). The
agent connects, sends the command and a pipe for its output, and holds the connection: an agent that ends, however,
ends its engine. The connection's end is the end of all processes of the engine. No part of it runs as root, except
systemd.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path

from node_agent.adapters.engine_output import EngineOutput
from node_agent.adapters.engine_process import KILLED_S, is_group_suspended, oom_kills
from node_agent.core.engine.launch import (
    MAX_REPORT_BYTES,
    Ended,
    LaunchRequest,
    Refused,
    Report,
    Started,
    format_request,
    format_stop,
    parse_report,
)

START_S = 45.0
"""How long the unit may take to start: the processes of an earlier agent's engine may have to be killed first."""

_OUTPUT_S = 1.0
_STOP_MARGIN_S = 2.0
_KILLED = -int(signal.SIGKILL)
_log = logging.getLogger(__name__)


class EngineUnit:
    """The EngineGroup port: one engine at a time. The engine's output goes to the agent's standard output.

    argv: the command.
    environ: variables beside those of the unit.
    path: the unit's socket.
    start_s: how long the unit may take to start the command.
    """

    def __init__(
        self, argv: Sequence[str], environ: Mapping[str, str], path: Path, *, start_s: float = START_S
    ) -> None:
        self._request = LaunchRequest(tuple(argv), dict(environ))
        self._path = path
        self._start_s = start_s
        self._connection: _Connection | None = None
        self._output: EngineOutput | None = None
        self._oom_kills = 0  # of this host, at the start

    async def start(self) -> None:
        """Start an engine, once an earlier one has ended. Raises OSError where that is not possible."""
        await self.stop(0.0)
        self._oom_kills = oom_kills()
        try:
            async with asyncio.timeout(self._start_s):
                self._connection = await self._connect()
        except TimeoutError as error:
            raise OSError(f"the engine's unit does not start it within {self._start_s:.0f} s: {self._path}") from error
        except ValueError as error:
            raise OSError(f"the engine's unit cannot start it: {error}") from error

    async def _connect(self) -> _Connection:
        """Connect, send the request, and wait for the start. Raises OSError, ValueError."""
        output = EngineOutput()
        try:
            sock = await _connected(self._path)
            try:
                socket.send_fds(sock, [format_request(self._request)], [output.descriptor])
                reader, writer = await asyncio.open_unix_connection(sock=sock, limit=MAX_REPORT_BYTES)
            except BaseException:
                sock.close()
                raise
        except BaseException:
            output.discard()
            raise
        output.begin()
        self._output = output
        try:
            return _Connection(_started(await _next_report(reader)).group, reader, writer)
        except BaseException:
            writer.close()
            raise

    async def wait(self) -> int:
        """Wait until the engine's first process ends; return its exit status (negative: the signal)."""
        if self._connection is None:
            raise RuntimeError("no engine was started")
        return await asyncio.shield(self._connection.status)

    def last_output(self) -> str:
        """Return the end of the engine's output, of its errors as well; complete once all of the group has ended."""
        return self._output.end(_OUTPUT_S) if self._output is not None else ""

    def had_oom_kill(self) -> bool:
        """Return whether the kernel has ended a process for lack of memory since the start, the engine's or another."""
        return oom_kills() > self._oom_kills

    def is_suspended(self) -> bool:
        """Return whether a process of the group is stopped by a signal (SIGSTOP) or a debugger."""
        return self._connection is not None and is_group_suspended(self._connection.group)

    def note_shared_memory(self) -> None:
        """Do nothing: the unit has a /dev/shm of its own, which ends with it."""

    async def stop(self, grace_s: float) -> None:
        """Stop the group, with SIGKILL after `grace_s` seconds, and wait until all of it has ended."""
        connection, self._connection = self._connection, None
        if connection is not None and not await connection.stop(grace_s):
            _log.error("the engine's unit does not end; systemd ends it with this agent")


class _Connection:
    """The connection to the launcher of a running engine. group: its process group, as the launcher reports it."""

    def __init__(self, group: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.group = group
        self.status: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._reader = reader
        self._writer = writer
        self._reading = asyncio.create_task(self._read())

    async def stop(self, grace_s: float) -> bool:
        """Stop the engine; return whether all of it has ended. The connection is closed in any case."""
        with contextlib.suppress(OSError):
            self._writer.write(format_stop(grace_s))
        ended, _ = await asyncio.wait({self._reading}, timeout=grace_s + KILLED_S + _STOP_MARGIN_S)
        self._writer.close()
        if not ended:
            self._reading.cancel()
            self._set_status(_KILLED)
        return bool(ended)

    async def _read(self) -> None:
        """Read reports until the connection ends: a launcher without a report was killed, with its engine."""
        try:
            while (report := await _next_report(self._reader)) is not None:
                if isinstance(report, Ended):
                    self._set_status(report.status)
        except (OSError, ValueError) as error:
            _log.warning("the connection to the engine's unit: %s", error)
            self._writer.close()  # the launcher then ends the engine
        self._set_status(_KILLED)

    def _set_status(self, status: int) -> None:
        if not self.status.done():
            self.status.set_result(status)


async def _connected(path: Path) -> socket.socket:
    """Connect to the socket. Raises OSError."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_connect(sock, str(path))
    except BaseException as error:
        sock.close()
        if isinstance(error, OSError):
            raise OSError(f"the engine's unit cannot be reached: {path}: {error.strerror or error}") from error
        raise
    return sock


def _started(report: Report | None) -> Started:
    """Return the report of a start. Raises OSError where it is none."""
    if isinstance(report, Started):
        return report
    reason = (
        report.reason
        if isinstance(report, Refused)
        else "it ends without a report; see journalctl --unit synkti-engine"
    )
    raise OSError(f"the engine's unit cannot start it: {reason}")


async def _next_report(reader: asyncio.StreamReader) -> Report | None:
    """Read a report; None at the connection's end. Raises OSError, and ValueError where it is none."""
    line = await reader.readline()
    return parse_report(line) if line.endswith(b"\n") else None
