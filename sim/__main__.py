"""`python -m sim --nodes 1000 --seed 1`: a simulated fleet of that size, measured; see docs/scale.md."""

from __future__ import annotations

import argparse
import gc
import json
import multiprocessing
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from sim.report import lines, to_json
from sim.story import CHAPTERS, Found


def take(chapter: str, nodes: int, seed: int, name: str) -> Found:
    """One measure, in whatever process."""
    gc.disable()  # nothing here is cyclic garbage, and looking for it in a million members takes half of the time
    return CHAPTERS[chapter](nodes, seed)[name]()


def measured(chapter: str, nodes: int, seed: int, jobs: int) -> Iterator[tuple[str, Found]]:
    """Every measure's name and what it found, in their order; each has fleets and chances of its own, so that the
    figures do not depend on how many are taken at a time."""
    names = list(CHAPTERS[chapter](nodes, seed))
    found = partial(take, chapter, nodes, seed)
    if jobs == 1:
        yield from zip(names, map(found, names), strict=True)
        return
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), max_tasks_per_child=1) as pool:
        yield from zip(names, pool.map(found, names), strict=True)


def main(arguments: list[str] | None = None) -> int:
    """Measure, print and write. The exit code is 0 unless something is wrong with the machines themselves."""
    parser = argparse.ArgumentParser(prog="python -m sim", description=__doc__)
    parser.add_argument(
        "chapter",
        nargs="?",
        choices=CHAPTERS,
        default="fleet",
        help="fleet: all of a fleet of NODES; "
        "quick: a little of that, in seconds; mass: only half of it going; policies: ways to choose an engine",
    )
    parser.add_argument("--nodes", type=int, default=100, help="of the fleet, 3 or more")
    parser.add_argument("--seed", type=int, default=1, help="the same seed, the same figures")
    parser.add_argument("--jobs", type=int, default=2, help="measures at a time, each in a process of its own")
    parser.add_argument("--out", type=Path, default=Path("out"), help="where the JSON goes")
    asked = parser.parse_args(arguments)
    if asked.jobs < 1:
        parser.error("--jobs: at least 1")
    if asked.nodes < 3:
        parser.error("--nodes: a fleet has 3 nodes or more")
    began = time.monotonic()
    found = {}
    for name, told in measured(asked.chapter, asked.nodes, asked.seed, asked.jobs):
        found[name] = told
        print("\n".join(lines(name, told)), flush=True)
    asked.out.mkdir(parents=True, exist_ok=True)
    path = asked.out / f"simulation-{asked.chapter}-{asked.nodes}-{asked.seed}.json"
    path.write_text(json.dumps({"nodes": asked.nodes, "seed": asked.seed, "found": to_json(found)}, indent=1) + "\n")
    print(f"{path}, after {time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
