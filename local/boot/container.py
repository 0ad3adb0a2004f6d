"""One container: a root of its own over the cached image, a network namespace, and systemd as PID 1 in systemd-nspawn.

The root is an overlay: below it the image, above it a small disk in memory, which stays through a reboot.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from local.boot.cgroups import ContainerGroups
from local.boot.commands import call
from local.boot.network import create_namespace, delete_namespace, namespace_path
from local.errors import LocalRunError

DISK_MIB = 3_072
"""Of the machine's memory only what is written to it. A model's download wants 2 GiB free."""

_EXIT_TIMEOUT_S = 15.0
_NSPAWN_FILES = "/run/systemd/nspawn"
_REBOOT = 133
"""systemd-nspawn's status when its container reboots; with --keep-unit its caller has to start it again."""

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def hide_leftovers() -> None:
    """Let systemd-nspawn keep its files of containers in memory of this mount namespace. Raises LocalRunError."""
    call(["mkdir", "-p", _NSPAWN_FILES])
    call(["mount", "-t", "tmpfs", "tmpfs", _NSPAWN_FILES])


class Container:
    """A container that boots on `boot`. name: unique in the run; folder: its own; log: its console's output.

    groups: of the run.
    """

    def __init__(self, name: str, folder: Path, log: Path, groups: ContainerGroups) -> None:
        self.name = name
        self.groups = groups
        self.log = log
        self.root = folder / "root"
        self._disk = folder / "disk"
        self._mounts = [self.root, self._disk]
        self._command: list[str] = []
        self._process: subprocess.Popen[bytes] | None = None

    def mount(self, image: Path) -> None:
        """Mount its root: a disk of DISK_MIB over the image. Raises LocalRunError."""
        for folder in (self.root, self._disk):
            folder.mkdir(parents=True)
        call(["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m,mode=755", "tmpfs", str(self._disk)])
        upper, work = self._disk / "upper", self._disk / "work"
        for folder in (upper, work):
            folder.mkdir()
        options = f"lowerdir={image},upperdir={upper},workdir={work}"
        call(["mount", "-t", "overlay", "-o", options, "overlay", str(self.root)])

    def mount_over(self, lower: Path, path: str) -> None:
        """Mount a folder of this machine, below changes that are on its disk. path: inside. Raises LocalRunError."""
        target = self.root / path.lstrip("/")
        name = path.strip("/").replace("/", "-")
        upper, work = self._disk / f"{name}-upper", self._disk / f"{name}-work"
        for folder in (target, upper, work):
            folder.mkdir(parents=True)
        options = f"lowerdir={lower},upperdir={upper},workdir={work}"
        call(["mount", "-t", "overlay", "-o", options, "overlay", str(target)])
        self._mounts.insert(0, target)

    def connect(self, address: str) -> None:
        """Create its network namespace. address: on the bridge. Raises LocalRunError."""
        create_namespace(self.name, address)

    def boot(self, binds: Mapping[str, str], disks: Mapping[str, int]) -> None:
        """Start systemd in it.

        Args:
            binds: folders of this machine that it reads, by their paths inside.
            disks: further disks in memory, MiB by their paths inside.
        """
        network = namespace_path(self.name)
        self._command = [
            "systemd-nspawn", "--quiet", "--boot", "--keep-unit", "--register=no", "--settings=no",
            f"--directory={self.root}", f"--machine={self.name}", f"--network-namespace-path={network}",
            "--resolv-conf=off", "--timezone=off", "--link-journal=no", "--console=pipe",
            *(f"--bind-ro={source}:{target}" for target, source in binds.items()),
            *(f"--tmpfs={path}:size={mib}m,mode=755" for path, mib in disks.items()),
        ]  # fmt: skip
        self._start()

    def _start(self) -> None:
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                preexec_fn=lambda: self.groups.enter(self.name),  # noqa: PLW1509 # it takes no lock
                env={"PATH": _PATH, "SYSTEMD_LOG_LEVEL": "warning"},
            )

    @property
    def running(self) -> bool:
        """True from `boot` until it has powered off or was killed. Starts it again if it has ended for a reboot."""
        if self._process is not None and self._process.poll() == _REBOOT:
            self._start()
        return self._process is not None and self._process.poll() is None

    def wait(self) -> int:
        """Wait for its end; return systemd-nspawn's status, as Popen has it."""
        return self._process.wait() if self._process is not None else 0

    def kill(self) -> None:
        """End it at once: its PID 1, and so all its processes, which do not always end with systemd-nspawn."""
        with contextlib.suppress(LocalRunError, ProcessLookupError):
            os.kill(self.leader(), signal.SIGKILL)
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def run(self, command: str, timeout_s: float = 30.0) -> str:
        """Run a shell's command as root inside; return its standard output. Raises LocalRunError."""
        inside = [
            "nsenter",
            f"--target={self.leader()}",
            "--mount",
            "--uts",
            "--ipc",
            "--net",
            "--pid",
            "--root",
            "--wd",
        ]
        shell = ["env", "-i", f"PATH={_PATH}", "HOME=/root", "/bin/bash", "-c", command]
        return call([*inside, *shell], timeout_s)

    def leader(self) -> int:
        """Return its PID 1 as this namespace numbers it. Raises LocalRunError while there is none."""
        pid = self._process.pid if self._process is not None else 0
        with contextlib.suppress(OSError):
            for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
                if _numbers(child)[1:] == ["1"]:
                    return int(child)
        raise LocalRunError(f"{self.name} is not running; the end of its console is in {self.log}")

    def outer_pid(self, inner: str) -> int:
        """Return a process's number in this namespace. inner: its number inside. Raises LocalRunError."""
        namespace = _namespace(str(self.leader()))
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if _numbers(folder.name)[1:] == [inner] and _namespace(folder.name) == namespace:
                    return int(folder.name)
        raise LocalRunError(f"{self.name} has no process {inner}")

    def fill_disk(self) -> None:
        """Leave no byte free on its disk, without writing any: the disk gets as small as what is on it.

        Raises LocalRunError.
        """
        disk = os.statvfs(self._disk)
        used = (disk.f_blocks - disk.f_bfree) * disk.f_frsize
        call(["mount", "-o", f"remount,size={used // 1024}k", str(self._disk)])

    def free_disk(self) -> None:
        """Give its disk its size back. Raises LocalRunError."""
        call(["mount", "-o", f"remount,size={DISK_MIB}m", str(self._disk)])

    def remove(self) -> None:
        """End it, and remove its network and disks. What cannot be removed ends with the run's own namespaces."""
        self.kill()
        with contextlib.suppress(LocalRunError):
            delete_namespace(self.name)
        give_up_at = time.monotonic() + _EXIT_TIMEOUT_S
        while self._mounts and time.monotonic() < give_up_at:
            try:
                call(["umount", str(self._mounts[0])])
                self._mounts.pop(0)
            except LocalRunError:  # its last processes are ending
                time.sleep(0.1)


def _numbers(pid: str) -> list[str]:
    """Return the process's numbers, in this namespace first. Raises OSError where it has ended."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(line.split()[1:] for line in lines if line.startswith("NSpid:"))


def _namespace(pid: str) -> str:
    return os.readlink(f"/proc/{pid}/ns/pid")
