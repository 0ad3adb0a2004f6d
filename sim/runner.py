"""Runs measures one after another, or several at a time, each in a process of its own."""

from __future__ import annotations

import gc
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial

from sim.suites import CHAPTERS, Found


def take(chapter: str, nodes: int, seed: int, name: str) -> Found:
    """Run one measure, in whatever process."""
    gc.disable()  # nothing here is cyclic garbage, and looking for it in a million members takes half of the time
    return CHAPTERS[chapter](nodes, seed)[name]()


def measured(chapter: str, nodes: int, seed: int, jobs: int) -> Iterator[tuple[str, Found]]:
    """Run every measure, each with fleets and randomness of its own, so that `jobs` does not change the figures.

    Args:
        chapter: a key of CHAPTERS.
        nodes: of the fleet.
        seed: of all randomness.
        jobs: how many measures run at a time, each in a process of its own; with 1 all run in this process.

    Yields:
        Name and result of each measure, in order.
    """
    names = list(CHAPTERS[chapter](nodes, seed))
    found = partial(take, chapter, nodes, seed)
    if jobs == 1:
        yield from zip(names, map(found, names), strict=True)
        return
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), max_tasks_per_child=1) as pool:
        yield from zip(names, pool.map(found, names), strict=True)
