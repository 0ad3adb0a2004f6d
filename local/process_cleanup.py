"""Starts the processes of one run in its folder, finds them by that folder, and ends all of them.

Every process that a run starts, and their children, has the run's folder (or one below it) as its working directory. A
program may rewrite its title and its environment, as vLLM does, but not that. So /proc lists all processes of a run
even after the end of the process that started them.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

_PROC = Path("/proc")
_SHM = "/dev/shm/"
_EXIT_TIMEOUT_S = 15.0


def start(argv: Sequence[str], folder: Path, environ: Mapping[str, str], log: Path) -> subprocess.Popen[bytes]:
    """Start a process in a session of its own, working in `folder`, with its output appended to `log`."""
    folder.mkdir(parents=True, exist_ok=True)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        return subprocess.Popen(
            argv,
            cwd=folder,
            env=dict(environ),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


def processes_in(folder: Path) -> list[int]:
    """Return the processes whose working directory is `folder` or below it, without this one."""
    root = str(folder.resolve())
    found = []
    for entry in _PROC.iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                place = os.readlink(entry / "cwd").removesuffix(" (deleted)")
                if place == root or place.startswith(root + os.sep):
                    found.append(int(entry.name))
    return found


def kill_all_in(folder: Path) -> bool:
    """Send SIGKILL to every process that works in `folder` until none is left; False if one does not end."""
    give_up_at = time.monotonic() + _EXIT_TIMEOUT_S
    while living := [pid for pid in processes_in(folder) if not _is_zombie(pid)]:
        if time.monotonic() > give_up_at:
            return False
        _kill(living)
        time.sleep(0.02)
    return True


def _kill(pids: Iterable[int]) -> None:
    for pid in pids:
        shared = _shared_memory(pid)  # a killed vLLM does not remove it
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
        for path in shared:
            path.unlink(missing_ok=True)


def _shared_memory(pid: int) -> set[Path]:
    with contextlib.suppress(OSError):
        maps = (_PROC / str(pid) / "maps").read_bytes().splitlines()
        return {Path(os.fsdecode(line.split()[-1])) for line in maps if f"{_SHM}psm_".encode() in line}
    return set()


def _is_zombie(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return (_PROC / str(pid) / "stat").read_bytes().rpartition(b")")[2].split()[0] == b"Z"
    return True


class CleanupProcess:
    """A process that ends and removes what is left of a run, however the run ends.

    It waits for the end of its standard input, which the kernel closes with the run. scratch: folder for the run's
    temporary files and sockets, whose paths must be short, so that it is not in the run's folder.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.scratch = Path(tempfile.mkdtemp(prefix="synkti-"))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "local.process_cleanup", str(folder), str(self.scratch)],
            cwd=Path(__file__).parent.parent,
            stdin=subprocess.PIPE,
            start_new_session=True,
        )

    def finish(self) -> bool:
        """End everything now; return False if a process does not end."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        return self._process.wait(timeout=2 * _EXIT_TIMEOUT_S) == 0


def tail(log: Path, lines: int = 20) -> str:
    """Return the last lines of a log, for an error message."""
    try:
        return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
    except OSError:
        return "(no log)"


def _wait_and_clean_up(folder: Path, scratch: Path) -> int:
    sys.stdin.buffer.read()
    if not kill_all_in(folder):
        return 1
    shutil.rmtree(folder, ignore_errors=True)
    shutil.rmtree(scratch, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(_wait_and_clean_up(Path(sys.argv[1]), Path(sys.argv[2])))
