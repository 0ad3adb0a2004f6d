"""Cuts the network between two nodes, in a network namespace of this run's own.

Nodes have loopback addresses, and connect to peers from them. The kernel looks local addresses up before any rule, so
that rule is moved back, and a cut is a rule in front of it that drops packets between two addresses. In the machine's
own namespace this would disturb other programs, so the run enters a namespace of its own first, if it is permitted.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import NoReturn

_INSIDE = "SYNKTI_CHAOS_NAMESPACE"


def enter_namespace() -> bool:
    """Start this program again in a network namespace of its own, without return; False if that is not possible."""
    if os.environ.get(_INSIDE):
        return _prepare()
    unshare = shutil.which("unshare")
    if unshare is None or shutil.which("ip") is None:
        return False
    how = [unshare, "--net"] if os.geteuid() == 0 else [unshare, "--net", "--map-root-user"]
    if subprocess.run([*how, "true"], capture_output=True, check=False).returncode:
        return False
    os.environ[_INSIDE] = "1"
    return _exec_replace([*how, sys.executable, *sys.orig_argv[1:]])


def _exec_replace(command: list[str]) -> NoReturn:
    os.execv(command[0], command)  # noqa: S606 # ourselves


def _prepare() -> bool:
    commands = ("link set lo up", "rule add pref 100 lookup local", "rule del pref 0")
    return all(_ip(*command.split()) for command in commands)


def cut(one: str, other: str) -> None:
    """Drop all packets between the two addresses."""
    for a, b in ((one, other), (other, one)):
        _ip("rule", "add", "pref", "10", "from", a, "to", b, "blackhole")


def heal(one: str, other: str) -> None:
    """End the cut between the two addresses."""
    for a, b in ((one, other), (other, one)):
        _ip("rule", "del", "pref", "10", "from", a, "to", b, "blackhole")


def _ip(*words: str) -> bool:
    return subprocess.run(["ip", *words], capture_output=True, check=False).returncode == 0
