"""`python -m sim --nodes 1000 --seed 1`: simulates a fleet of that size and measures it; see docs/scale.md."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from sim.report import lines, to_json
from sim.runner import measured
from sim.suites import CHAPTERS


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
