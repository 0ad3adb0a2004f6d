"""Plan how a model's folder on the disk becomes exactly what the manifest lists.

Rules kept here:

* a file counts as right only when its SHA-256 was compared on this disk; the record of that is valid as long as the
  file's size and modification time are those of the comparison, so that a second run does not read 140 GB again;
* a file of the right size without such a record is compared, not fetched;
* a file that the manifest does not name is removed: vLLM loads every weight file that it finds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from node_agent.contract.models import ModelFile

PART_SUFFIX = ".part"
"""The suffix of a file that is not complete; the list of its ranges is beside it."""

DONE_SUFFIX = ".part.done"
RANGE_BYTES = 16 * 1024 * 1024
"""AWS advises ranges of 8-16 MB; each yields about 90 MB/s, so that many at once fill the network."""


@dataclass(frozen=True)
class OnDisk:
    """A file on the disk: its bytes, and its modification time in nanoseconds."""

    size: int
    mtime_ns: int


@dataclass(frozen=True)
class Verified:
    """A file's state when its SHA-256 was compared."""

    size: int
    mtime_ns: int
    sha256: str


@dataclass(frozen=True)
class DownloadPlan:
    """The work per file. keep: right; compare: of the right size; fetch: missing or wrong; remove: not named."""

    keep: tuple[ModelFile, ...]
    compare: tuple[ModelFile, ...]
    fetch: tuple[ModelFile, ...]
    remove: tuple[str, ...]


def plan_download(
    files: Sequence[ModelFile], disk: Mapping[str, OnDisk], verified: Mapping[str, Verified]
) -> DownloadPlan:
    """Plan a download. files: the manifest's; disk: the folder's files, by path; verified: what was compared before."""
    keep, compare, fetch = [], [], []
    for file in files:
        on_disk, record = disk.get(file.path), verified.get(file.path)
        if on_disk is None or on_disk.size != file.size:
            fetch.append(file)
        elif record == Verified(on_disk.size, on_disk.mtime_ns, file.sha256):
            keep.append(file)
        else:
            compare.append(file)
    named = {file.path for file in files}
    partial = {file.path + suffix for file in fetch for suffix in (PART_SUFFIX, DONE_SUFFIX)}
    remove = tuple(sorted(set(disk) - named - partial))
    return DownloadPlan(tuple(keep), tuple(compare), tuple(fetch), remove)


def ranges(size: int) -> tuple[tuple[int, int], ...]:
    """Return the start and the end (exclusive) of each request; nothing for an empty file."""
    return tuple((start, min(start + RANGE_BYTES, size)) for start in range(0, size, RANGE_BYTES))


def missing_ranges(size: int, done: frozenset[int]) -> tuple[tuple[int, int], ...]:
    """Return the ranges still to fetch. done: the starts of those that an earlier run has written."""
    return tuple(each for each in ranges(size) if each[0] not in done)
