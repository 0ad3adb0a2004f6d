"""What a node has to do until a model's folder on its disk is exactly what the manifest says.

Rules kept here:

* a file counts as right only when its SHA-256 was compared on this disk; a note of that is believed as long as the
  file's size and time of change are those of the comparison, so that a second run does not read 140 GB again;
* a file of the right size that nobody vouches for is compared, not fetched;
* a file that the manifest does not name goes: vLLM loads every weight file that it finds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from node_agent.contract.models import ModelFile

PART_SUFFIX = ".part"
"""A file that is not whole yet has its name with this behind it, and beside it the list of ranges that it has."""

DONE_SUFFIX = ".part.done"
RANGE_BYTES = 16 * 1024 * 1024
"""AWS advises ranges of 8-16 MB; each brings about 90 MB/s, so that many at once fill the network."""


@dataclass(frozen=True)
class OnDisk:
    """A file as the disk has it: bytes, and when it was changed last (nanoseconds)."""

    size: int
    mtime_ns: int


@dataclass(frozen=True)
class Verified:
    """What a file was when its SHA-256 was compared."""

    size: int
    mtime_ns: int
    sha256: str


@dataclass(frozen=True)
class DownloadPlan:
    """keep: right already; compare: of the right size; fetch: missing or wrong; remove: named by nobody."""

    keep: tuple[ModelFile, ...]
    compare: tuple[ModelFile, ...]
    fetch: tuple[ModelFile, ...]
    remove: tuple[str, ...]


def plan_download(
    files: Sequence[ModelFile], disk: Mapping[str, OnDisk], verified: Mapping[str, Verified]
) -> DownloadPlan:
    """files: the manifest's; disk: what the folder holds, by path; verified: what was compared before."""
    keep, compare, fetch = [], [], []
    for file in files:
        there, note = disk.get(file.path), verified.get(file.path)
        if there is None or there.size != file.size:
            fetch.append(file)
        elif note == Verified(there.size, there.mtime_ns, file.sha256):
            keep.append(file)
        else:
            compare.append(file)
    named = {file.path for file in files}
    halves = {file.path + suffix for file in fetch for suffix in (PART_SUFFIX, DONE_SUFFIX)}
    remove = tuple(sorted(set(disk) - named - halves))
    return DownloadPlan(tuple(keep), tuple(compare), tuple(fetch), remove)


def ranges(size: int) -> tuple[tuple[int, int], ...]:
    """Where each request begins and where it ends (exclusive); nothing for an empty file."""
    return tuple((start, min(start + RANGE_BYTES, size)) for start in range(0, size, RANGE_BYTES))


def missing_ranges(size: int, done: frozenset[int]) -> tuple[tuple[int, int], ...]:
    """done: the beginnings of the ranges that an earlier run has written."""
    return tuple(each for each in ranges(size) if each[0] not in done)
