"""Reads CPU time and memory of one process, without its children, from /proc."""

from __future__ import annotations

import os
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def cpu_s(pid: int) -> float:
    """Return user and system time of all its threads, in seconds; the kernel counts ticks of (mostly) 10 ms."""
    return cpu_s_of_stat(Path(f"/proc/{pid}/stat").read_text(), _TICKS_PER_S)


def cpu_s_of_stat(stat: str, ticks_per_s: int) -> float:
    """Return user and system time, in seconds, from the text of /proc/<pid>/stat."""
    fields = stat.rpartition(")")[2].split()  # the name before it may have spaces and parentheses
    return (int(fields[11]) + int(fields[12])) / ticks_per_s


def rss_bytes(pid: int) -> int:
    """Return the resident memory of a process. Raises FileNotFoundError where there is no such process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_BYTES
