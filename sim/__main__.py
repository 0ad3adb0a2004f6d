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
from sim.story import Found, Measure, Plan, plan_for, policy_steps, quick_plan, steps


def steps_of(plan: Plan | None, seed: int) -> dict[str, Measure]:
    """The measures by name. plan: None for the comparison of policies."""
    return dict(policy_steps(seed) if plan is None else steps(plan, seed))


def take(plan: Plan | None, seed: int, name: str) -> Found:
    """One measure, in whatever process."""
    gc.disable()  # nothing here is cyclic garbage, and looking for it in a million members takes half of the time
    return steps_of(plan, seed)[name]()


def measured(plan: Plan | None, seed: int, jobs: int) -> Iterator[tuple[str, Found]]:
    """Every measure's name and what it found, in their order; each has fleets and chances of its own, so that the
    figures do not depend on how many are taken at a time."""
    names = list(steps_of(plan, seed))
    if jobs == 1:
        yield from zip(names, map(partial(take, plan, seed), names), strict=True)
        return
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), max_tasks_per_child=1) as pool:
        yield from zip(names, pool.map(partial(take, plan, seed), names), strict=True)


def main(arguments: list[str] | None = None) -> int:
    """Measure, print and write. The exit code is 0 unless something is wrong with the machines themselves."""
    parser = argparse.ArgumentParser(prog="python -m sim", description=__doc__)
    parser.add_argument("--nodes", type=int, default=100, help="of the fleet, 3 or more")
    parser.add_argument("--seed", type=int, default=1, help="the same seed, the same figures")
    parser.add_argument("--quick", action="store_true", help="a little of everything, in seconds")
    parser.add_argument("--policies", action="store_true", help="only compare ways to choose an engine")
    parser.add_argument("--jobs", type=int, default=2, help="measures at a time, each in a process of its own")
    parser.add_argument("--out", type=Path, default=Path("out"), help="where the JSON goes")
    asked = parser.parse_args(arguments)
    if asked.jobs < 1:
        parser.error("--jobs: at least 1")
    if asked.nodes < 3:
        parser.error("--nodes: a fleet has 3 nodes or more")
    plan = None if asked.policies else quick_plan(asked.nodes) if asked.quick else plan_for(asked.nodes)
    began = time.monotonic()
    found = {}
    for name, told in measured(plan, asked.seed, asked.jobs):
        found[name] = told
        print("\n".join(lines(name, told)), flush=True)
    asked.out.mkdir(parents=True, exist_ok=True)
    what = "policies" if asked.policies else f"{asked.nodes}"
    path = asked.out / f"simulation-{what}-{asked.seed}.json"
    path.write_text(json.dumps({"nodes": asked.nodes, "seed": asked.seed, "found": to_json(found)}, indent=1) + "\n")
    print(f"{path}, after {time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
