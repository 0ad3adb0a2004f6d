"""Runs `synkti gateway` as a process of the run: the one URL that outlives every node."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path

from local.aws import free_port
from local.emulated_instance import EmulatedInstance
from local.errors import LocalRunError
from local.process_cleanup import start, tail

_ROOT = Path(__file__).parents[2]
_PREFERRED_PORT = 8080
_START_TIMEOUT_S = 20.0
_POLL_S = 0.05


class GatewayProcess:
    """The process. entry: the node that it is connected to first; folder: the run's; logs: where its output goes."""

    def __init__(self, entry: EmulatedInstance, folder: Path, logs: Path) -> None:
        self.entry = entry
        self.log = logs / "gateway.log"
        self.log.unlink(missing_ok=True)
        port = free_port(_PREFERRED_PORT)
        environ = {**os.environ, "PYTHONPATH": os.pathsep.join((str(_ROOT), str(_ROOT / "client")))}
        argv = [sys.executable, "-m", "cli", "gateway", "--node", entry.url, "--port", str(port)]
        self._process: subprocess.Popen[bytes] = start(argv, folder / "gateway", environ, self.log)
        self.url = f"http://127.0.0.1:{port}"

    async def wait(self) -> None:
        """Wait until it listens. Raises LocalRunError."""
        give_up_at = time.monotonic() + _START_TIMEOUT_S
        while not self._listens():
            if self._process.poll() is not None or time.monotonic() > give_up_at:
                raise LocalRunError(f"synkti gateway did not start; its log, {self.log}, ends:\n{tail(self.log)}")
            await asyncio.sleep(_POLL_S)

    @property
    def last_line(self) -> str:
        """The last line that it printed: about a stream that outlived a node."""
        return tail(self.log, 1)

    def stop(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()

    def _listens(self) -> bool:
        return f"gateway: {self.url}/v1, with " in tail(self.log)
