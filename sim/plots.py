"""`python -m sim.plots`: draws the figures of docs/scale.md from the simulations' output in out/."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sim.svg import bars

Found = dict[str, Any]


def read(folder: Path, chapter: str, seed: int) -> list[tuple[int, Found]]:
    """Read what was found, by the number of nodes."""
    found = []
    for path in folder.glob(f"simulation-{chapter}-*-{seed}.json"):
        told = json.loads(path.read_text())
        found.append((int(told["nodes"]), told["found"]))
    return sorted(found, key=lambda pair: pair[0])


def pictures(found: list[tuple[int, Found]]) -> dict[str, str]:
    """Draw the figures of fleets: SVG by file name."""
    sizes = [f"{nodes:,} nodes" for nodes, _ in found]

    def values(look: Callable[[Found], Any]) -> list[float | None]:
        return [look(one) for _, one in found]

    return {
        "detection.svg": bars(
            "From a node's end to its exclusion, at every survivor",
            "s",
            sizes,
            {
                "suspected, p50": values(lambda one: one["deaths"]["suspected_s"]["p50"]),
                "suspected, max": values(lambda one: one["deaths"]["suspected_s"]["max"]),
                "dead, p50": values(lambda one: one["deaths"]["dead_s"]["p50"]),
                "dead, max": values(lambda one: one["deaths"]["dead_s"]["max"]),
            },
        ),
        "bytes.svg": bars(
            "What a node sends in a second, headers included",
            "bytes",
            sizes,
            {
                "loads at rest": values(lambda one: one["cost"]["quiet"]["bytes_s"]),
                "loads that change": values(lambda one: one["cost"].get("busy", {}).get("bytes_s")),
            },
        ),
        "cpu.svg": bars(
            "Processor time of a node's membership in a second",
            "µs",
            sizes,
            {
                "loads at rest": values(lambda one: one["cost"]["quiet"]["cpu_us_s"]),
                "loads that change": values(lambda one: one["cost"].get("busy", {}).get("cpu_us_s")),
            },
        ),
    }


def policy_pictures(found: Found) -> dict[str, str]:
    """Draw the comparison of routing policies."""
    chat, unrelated = found["policies"]["chat"], found["policies"]["unrelated"]
    names = list(chat)
    return {
        "hits.svg": bars(
            "Prompt tokens that the engine had read before, chats",
            "%",
            names,
            {"hit rate": [100 * chat[name]["hit_rate"] for name in names]},
        ),
        "first-token.svg": bars(
            "First token",
            "s",
            names,
            {
                "chats, p50": [chat[name]["first_token_s"]["p50"] for name in names],
                "chats, p99": [chat[name]["first_token_s"]["p99"] for name in names],
                "unrelated, p50": [unrelated[name]["first_token_s"]["p50"] for name in names],
                "unrelated, p99": [unrelated[name]["first_token_s"]["p99"] for name in names],
            },
        ),
    }


def main(arguments: list[str] | None = None) -> None:
    """Draw all figures for which there is output; print their paths. arguments: None for the command line's."""
    parser = argparse.ArgumentParser(prog="python -m sim.plots", description=__doc__)
    parser.add_argument("--found", type=Path, default=Path("out"), help="where the simulations wrote")
    parser.add_argument("--chapter", default="fleet", help="of `python -m sim`")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--to", type=Path, default=Path("docs/scale"), help="where the pictures go")
    asked = parser.parse_args(arguments)
    drawn = pictures(read(asked.found, asked.chapter, asked.seed))
    for _, found in read(asked.found, "policies", asked.seed):
        drawn |= policy_pictures(found)
    asked.to.mkdir(parents=True, exist_ok=True)
    for name, picture in drawn.items():
        (asked.to / name).write_text(picture)
        print(asked.to / name)


if __name__ == "__main__":
    main()
