"""`python -m sim --nodes 1000 --seed 1`: a simulated fleet of that size, measured; see docs/scale.md."""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
from pathlib import Path

from sim.report import lines, to_json
from sim.story import plan_for, policy_steps, quick_plan, steps


def main(arguments: list[str] | None = None) -> int:
    """Measure, print and write. The exit code is 0 unless something is wrong with the machines themselves."""
    parser = argparse.ArgumentParser(prog="python -m sim", description=__doc__)
    parser.add_argument("--nodes", type=int, default=100, help="of the fleet, 3 or more")
    parser.add_argument("--seed", type=int, default=1, help="the same seed, the same figures")
    parser.add_argument("--quick", action="store_true", help="a little of everything, in seconds")
    parser.add_argument("--policies", action="store_true", help="only compare ways to choose an engine")
    parser.add_argument("--out", type=Path, default=Path("out"), help="where the JSON goes")
    asked = parser.parse_args(arguments)
    if asked.nodes < 3:
        parser.error("--nodes: a fleet has 3 nodes or more")
    gc.disable()  # nothing here is cyclic garbage, and looking for it in a million members takes half of the time
    plan = quick_plan(asked.nodes) if asked.quick else plan_for(asked.nodes)
    began = time.monotonic()
    found = {}
    for name, measure in policy_steps(asked.seed) if asked.policies else steps(plan, asked.seed):
        found[name] = measure()
        print("\n".join(lines(name, found[name])), flush=True)
    asked.out.mkdir(parents=True, exist_ok=True)
    what = "policies" if asked.policies else f"{asked.nodes}"
    path = asked.out / f"simulation-{what}-{asked.seed}.json"
    path.write_text(json.dumps({"nodes": asked.nodes, "seed": asked.seed, "found": to_json(found)}, indent=1) + "\n")
    print(f"{path}, after {time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
