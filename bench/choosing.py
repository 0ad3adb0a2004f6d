"""Measures what a route costs in fleets of several sizes, and a change of the fleet: `python -m bench.choosing`.

In one process, no network: the router alone, as an entry asks it. The best of several runs, since the machine may be
busy with something else.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import replace

from node_agent.contract.states import NodeState
from node_agent.core.node.status import Load, NodeStatus, Pool
from node_agent.core.routing.router import Router, RouteRequest

SIZES = (3, 10, 100, 1_000)
RUNS = 20
REQUESTS = 1_000


class Source:
    """A peer's load, as membership has it."""

    def __init__(self, running: int) -> None:
        self.load = Load(running, 0, 0.2, 0.03, 4_000.0)
        self.load_version = 1


def _status(number: int) -> NodeStatus:
    pool = Pool(f"zone-{number % 3}", f"type-{number % 2}")
    return NodeStatus(f"i-{number:017x}", f"h{number}:8001", f"h{number}:8000", NodeState.READY, pool, "m", 1)


def _best_time_us(do: Callable[[], object], count: int) -> float:
    best = float("inf")
    for _ in range(RUNS):
        began = time.perf_counter()
        do()
        best = min(best, time.perf_counter() - began)
    return best / count * 1e6


def measure(nodes: int) -> dict[str, float]:
    """Measure, in microseconds, a route with even and uneven loads, after a loss, without a key; and a change."""
    chance = random.Random(nodes)  # noqa: S311 # the same figures' inputs each time
    own, *peers = (_status(number) for number in range(nodes))
    sources = {peer.instance_id: Source(8) for peer in peers}
    router = Router(own.instance_id)
    router.own_load.set(Load(8, 0, 0.2, 0.03, 4_000.0))
    router.update(peers, sources, own)
    keys = [chance.getrandbits(64) for _ in range(REQUESTS)]

    def ask(requests: list[RouteRequest]) -> Callable[[], None]:
        def run() -> None:
            for request in requests:
                router.route(request, 0.0)

        return run

    even = _best_time_us(ask([RouteRequest("m", key) for key in keys]), REQUESTS)
    loss = _best_time_us(
        ask([RouteRequest("m", key, tried=(peers[0].instance_id,), avoid=peers[0].pool) for key in keys]), REQUESTS
    )
    keyless = _best_time_us(ask([RouteRequest("m")] * REQUESTS), REQUESTS)
    for source in sources.values():
        source.load = source.load._replace(running=chance.randrange(24))
        source.load_version += 1
    uneven = _best_time_us(ask([RouteRequest("m", key) for key in keys]), REQUESTS)
    changed = [replace(peers[0], state=NodeState.AT_RISK), *peers[1:]]

    def change() -> None:
        router.update(peers[1:], sources, own)
        router.update(changed, sources, own)

    return {
        "even loads": even,
        "uneven loads": uneven,
        "after a loss": loss,
        "without a key": keyless,
        "a node more or less": _best_time_us(change, 2),
    }


def main() -> None:
    """Print a table: a row for each size of fleet, a column for each kind of route, in microseconds."""
    names = list(measure(3))
    print(f"{'nodes':>7}" + "".join(f"{name:>22}" for name in names) + "   (microseconds)")
    for nodes in SIZES:
        found = measure(nodes)
        print(f"{nodes:>7}" + "".join(f"{found[name]:>22.1f}" for name in names))


if __name__ == "__main__":
    main()
