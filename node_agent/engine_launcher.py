"""Start one engine for the agent, as the main process of the engine's own systemd unit.

    python -m node_agent.engine_launcher        with the unit's listening socket as descriptor 3 (sd_listen_fds(3))

It runs as the engine's user and has no rights that the engine lacks. The unit's socket starts it when an agent
connects; it accepts that connection only, starts the command that the agent sends (`core/engine/launch`), and ends
when the engine has ended. The engine never outlives the connection. systemd ends what is left of the unit then, with
the unit's /tmp and /dev/shm. An agent that connects meanwhile waits in the socket's queue, and starts the unit anew.

Exit codes: 0 done · 2 it was not started by a socket unit. Standard library only.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from node_agent.adapters.engine_process import EngineProcess
from node_agent.core.engine.launch import (
    MAX_REQUEST_BYTES,
    Ended,
    LaunchRequest,
    Refused,
    Report,
    Started,
    format_report,
    parse_request,
    parse_stop,
)

EXIT_USAGE = 2
METADATA = ("169.254.169.254", 80)
METADATA_NEEDED = "SYNKTI_ENGINE_METADATA"
"""The variable is `needed` where the engine itself reads its weights from S3, with the instance's role."""

_FIRST_DESCRIPTOR = 3
_ACCEPT_S = 60.0
_REQUEST_S = 10.0
_METADATA_S = 2.0
_log = logging.getLogger("engine-launcher")


class AgentsPipe:
    """The engine's output, which the agent reads: the writing end of its pipe (see `adapters/engine_output`)."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def begin(self) -> None:
        """Close this process's own end, after the engine has inherited it."""
        os.close(self.descriptor)

    def discard(self) -> None:
        """Close it: no engine was started."""
        os.close(self.descriptor)

    def end(self, within_s: float) -> str:
        """Return nothing: the agent has it."""
        return ""


def main() -> int:
    """Serve one agent; return the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    if os.environ.get("LISTEN_PID") != str(os.getpid()) or os.environ.get("LISTEN_FDS") != "1":
        print("engine_launcher: systemd starts it, by the socket unit synkti-engine.socket", file=sys.stderr)
        return EXIT_USAGE
    if os.environ.get(METADATA_NEEDED) != "needed":
        threading.Thread(target=warn_of_metadata, args=(METADATA,), daemon=True).start()
    with socket.socket(fileno=_FIRST_DESCRIPTOR) as listener:
        serve_one(listener, os.environ)
    return 0


def warn_of_metadata(address: tuple[str, int]) -> bool:
    """Log an error where the instance's metadata can be reached: the unit's IPAddressDeny has no effect here."""
    try:
        socket.create_connection(address, _METADATA_S).close()
    except OSError:
        return False
    _log.error(
        "the engine can reach the instance's metadata, and so the node's role, although its unit denies it: "
        "systemd's IPAddressDeny needs cgroup v2 and BPF"
    )
    return True


def serve_one(listener: socket.socket, environ: Mapping[str, str]) -> None:
    """Accept one agent, and run its engine until its end. Returns also where none connects.

    Args:
        listener: the unit's socket.
        environ: the unit's variables, which the engine gets, too.
    """
    listener.settimeout(_ACCEPT_S)
    try:
        connection, _ = listener.accept()
    except TimeoutError:
        return
    with connection:
        connection.settimeout(_REQUEST_S)
        try:
            request, descriptor = _receive(connection)
        except (OSError, ValueError) as error:
            _log.warning("no request to start an engine: %s", error)
            return
        own = {name: value for name, value in environ.items() if not name.startswith("LISTEN_")}
        request = LaunchRequest(request.argv, {**own, **request.environ})
        connection.setblocking(False)
        asyncio.run(run_engine(connection, request, descriptor, Path(environ.get("RUNTIME_DIRECTORY", "."))))


def _receive(connection: socket.socket) -> tuple[LaunchRequest, int]:
    """Receive an agent's request, and the descriptor for the engine's output. Raises OSError, ValueError."""
    data, descriptors, _, _ = socket.recv_fds(connection, MAX_REQUEST_BYTES, 1)
    try:
        return parse_request(_rest_of_line(connection, data)), _only(descriptors)
    except BaseException:
        for descriptor in descriptors:
            os.close(descriptor)
        raise


def _only(descriptors: Sequence[int]) -> int:
    if len(descriptors) != 1:
        raise ValueError("it has no descriptor for the engine's output")
    return descriptors[0]


def _rest_of_line(connection: socket.socket, data: bytes) -> bytes:
    """Receive until the line's end; return all of it. Raises OSError, ValueError."""
    while not data.endswith(b"\n"):
        more = connection.recv(MAX_REQUEST_BYTES)
        data += more
        if not more or len(data) > MAX_REQUEST_BYTES:
            raise ValueError(f"it is not one line of at most {MAX_REQUEST_BYTES} bytes")
    return data


async def run_engine(connection: socket.socket, request: LaunchRequest, descriptor: int, folder: Path) -> None:
    """Run the engine until it has ended, or the connection has, or this process gets SIGTERM.

    Args:
        connection: the agent's, not blocking.
        request: with the engine's whole environment.
        descriptor: for its output.
        folder: for the note of its process group.
    """
    reader, writer = await asyncio.open_unix_connection(sock=connection)
    process = EngineProcess(
        request.argv, request.environ, folder / "engine.group", make_output=lambda: AgentsPipe(descriptor)
    )
    try:
        await process.start()
    except OSError as error:
        _send(writer, Refused(str(error)))
    else:
        _send(writer, Started(process.group))
        ended = asyncio.create_task(_report_end(process, writer))
        await process.stop(await _until_stop(reader))
        await ended
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


async def _until_stop(reader: asyncio.StreamReader) -> float:
    """Wait until the engine has to end; return the grace in seconds, 0 where the agent or systemd ended the wait."""
    terminated = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, terminated.set)
    requested, stopped = asyncio.create_task(_stop_requested(reader)), asyncio.create_task(terminated.wait())
    await asyncio.wait({requested, stopped}, return_when=asyncio.FIRST_COMPLETED)
    grace_s = requested.result() if requested.done() else 0.0
    requested.cancel()
    stopped.cancel()
    return grace_s


async def _report_end(process: EngineProcess, writer: asyncio.StreamWriter) -> None:
    _send(writer, Ended(await process.wait()))


async def _stop_requested(reader: asyncio.StreamReader) -> float:
    """Wait for the agent's request to stop, or its end; return the grace in seconds."""
    try:
        return parse_stop(await reader.readline())
    except (OSError, ValueError):
        return 0.0


def _send(writer: asyncio.StreamWriter, report: Report) -> None:
    with contextlib.suppress(OSError):
        writer.write(format_report(report))


if __name__ == "__main__":
    sys.exit(main())
