"""Decides whether this machine can boot instances, and names what to install where it cannot.

`missing` and `missing_for_vllm` are pure; `read_machine` reads the facts.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from local.boot.image import IMAGE_PYTHON

_PACKAGES = {
    "systemd-nspawn": "systemd-container",
    "debootstrap": "debootstrap",
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "mount": "mount",
    "ip": "iproute2",
    "openssl": "openssl",
}
"""Each program that a run calls, and the package of Debian and Ubuntu that has it."""

THIS_PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_CGROUPS = Path("/sys/fs/cgroup")
_PROBE_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Machine:
    """What a run depends on.

    architecture: as `uname -m`; programs: those of _PACKAGES that are installed; cgroups: "v2", "v1" (also where both
    are mounted), or empty; can_unshare: namespaces can be created, which a container may forbid.
    """

    system: str = "Linux"
    architecture: str = "x86_64"
    is_root: bool = True
    programs: frozenset[str] = frozenset(_PACKAGES)
    has_keyring: bool = True
    has_overlay: bool = True
    cgroups: str = "v2"
    can_unshare: bool = True


def missing(machine: Machine) -> list[str]:
    """Return what keeps the machine from booting instances, each with its remedy; empty where nothing does."""
    if machine.system != "Linux":
        return [f"this is {machine.system}; systemd-nspawn is Linux's: run it on a Linux machine"]
    absent = sorted(set(_PACKAGES) - machine.programs)
    packages = {_PACKAGES[program] for program in absent}
    if not machine.has_keyring:
        packages.add("debian-archive-keyring")
    faults = [
        (
            machine.architecture != "x86_64",
            f"this is {machine.architecture}; the nodes' locked packages are for x86_64",
        ),
        (not machine.is_root, "namespaces, mounts and cgroups need root: run it with sudo"),
        (
            bool(packages),
            f"not installed: {', '.join(sorted(packages))} (apt-get install {' '.join(sorted(packages))})",
        ),
        (not machine.has_overlay, "the kernel has no overlay file system: modprobe overlay"),
        (not machine.cgroups, f"cgroups are not mounted at {_CGROUPS}: systemd in a container needs them"),
        (
            machine.is_root and "unshare" in machine.programs and not machine.can_unshare,
            "namespaces cannot be created here, as in an unprivileged container: use a machine, or a privileged one",
        ),
    ]
    return [text for is_fault, text in faults if is_fault]


def missing_for_vllm(python: str) -> str:
    """Return what keeps this machine from booting a real vLLM; empty where nothing does. Pure.

    python: this process's version, such as "3.11".
    """
    if python == IMAGE_PYTHON:
        return ""
    return (
        f"its packages here are for Python {python}, and the instances have Debian's {IMAGE_PYTHON}: with that one "
        f"installed, make clean && make boot PYTHON=python{IMAGE_PYTHON}"
    )


def read_machine() -> Machine:
    """Read the facts of this machine."""
    is_root = os.geteuid() == 0
    return Machine(
        system=platform.system(),
        architecture=platform.machine(),
        is_root=is_root,
        programs=frozenset(program for program in _PACKAGES if shutil.which(program)),
        has_keyring=KEYRING.exists(),
        has_overlay="overlay" in _read(Path("/proc/filesystems")).split(),
        cgroups=cgroup_version(_read(Path("/proc/self/mounts"))),
        can_unshare=is_root and _can_unshare(),
    )


def cgroup_version(mounts: str) -> str:
    """Return "v2" where /sys/fs/cgroup is the unified hierarchy, "v1" where it has others, else empty. Pure.

    mounts: as /proc/self/mounts.
    """
    found = {fields[2] for line in mounts.splitlines() if (fields := line.split())[1:2] == [str(_CGROUPS)]}
    if "cgroup2" in found:
        return "v2"
    has_systemd = any(line.split()[1:3] == [f"{_CGROUPS}/systemd", "cgroup"] for line in mounts.splitlines())
    return "v1" if has_systemd else ""


def _can_unshare() -> bool:
    command = ["unshare", "--mount", "--net", "--pid", "--fork", "--mount-proc", "true"]
    try:
        done = subprocess.run(command, capture_output=True, timeout=_PROBE_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
