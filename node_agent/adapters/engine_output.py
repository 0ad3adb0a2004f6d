"""Pass an engine's output on to the agent's own, and keep the end of it.

A thread copies it, so that neither a busy event loop nor the agent's own work delays an engine that writes. The pipe
ends when the last process of the engine has closed it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
from typing import Protocol

KEPT_BYTES = 64 * 1024
"""vLLM's errors have long stack traces, in two processes."""

_PIPE_BYTES = 1024 * 1024
_CHUNK_BYTES = 64 * 1024


class OutputEnd(Protocol):
    """Where an engine's output goes. descriptor: its standard output and its standard error."""

    descriptor: int

    def begin(self) -> None:
        """Close this process's own writing end, after the engine has inherited it."""
        ...

    def discard(self) -> None:
        """Close it: no engine was started."""
        ...

    def end(self, within_s: float) -> str:
        """Return the end of the output. within_s: how long to wait for the last bytes."""
        ...


class EngineOutput:
    """The output of one engine process group. to: the descriptor that gets a copy of all of it."""

    def __init__(self, to: int = 1) -> None:
        self._to = to
        self._kept = bytearray()
        self._lock = threading.Lock()
        self._source, self.descriptor = os.pipe()
        with contextlib.suppress(OSError):  # above the limit of an unprivileged user; the default size works, too
            fcntl.fcntl(self.descriptor, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        self._copier = threading.Thread(target=self._copy, name="engine-output", daemon=True)

    def begin(self) -> None:
        """Close this process's own writing end, after the engine has inherited it, and copy until the engine's end."""
        os.close(self.descriptor)
        self._copier.start()

    def discard(self) -> None:
        """Close both ends: no engine was started."""
        os.close(self.descriptor)
        os.close(self._source)

    def end(self, within_s: float) -> str:
        """Return the end of the output, KEPT_BYTES at most. within_s: how long to wait for the last bytes."""
        self._copier.join(within_s)
        with self._lock:
            return self._kept.decode(errors="replace")

    def _copy(self) -> None:
        with os.fdopen(self._source, "rb", buffering=0) as source:
            while chunk := source.read(_CHUNK_BYTES):
                with self._lock:
                    self._kept += chunk
                    del self._kept[:-KEPT_BYTES]
                view = memoryview(chunk)
                with contextlib.suppress(OSError):  # nobody reads the agent's output any more
                    while view:
                        view = view[os.write(self._to, view) :]
