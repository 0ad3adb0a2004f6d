"""Measures what the limits of keys cost a request and a token, paired with none: `python -m bench.key_limits`.

A limiter of one node with nine peers, in this process, without a server. A round has as many requests of a caller
without a key as of one with all three limits, in turns; a request begins, and ends with an answer of TOKENS tokens. A
stream is counted once a second and at its end: its cost is divided by the tokens of a second. The medians of the rounds
are printed, and the differences. Exit code 1 where one is above its goal.
"""

from __future__ import annotations

import asyncio
import sys
import time
from dataclasses import dataclass
from statistics import median
from types import SimpleNamespace
from typing import cast

from rich.console import Console
from rich.table import Table

from bench.command import parse_rounds
from local.lone_node import lone_node
from node_agent.contract.states import NodeState
from node_agent.core.access.caller import ANYBODY, Caller, KeyLimits, Scope
from node_agent.core.access.token_estimate import Estimate
from node_agent.core.node.status import NodeStatus, Pool
from node_agent.core.streams.stream_machine import StreamMachine
from node_agent.runtime.client_api.admission_queue import AdmissionQueue
from node_agent.runtime.client_api.key_limits import KeyLimiter, KeyRequest
from node_agent.testing.fake_requests import MemoryRequest

REQUESTS = 2_000
TOKENS = 100
TOKENS_PER_S = 20.0
"""Of a stream; a slower one is counted more often for each token."""

GOAL_REQUEST_US, GOAL_TOKEN_US = 10.0, 3.0
_PEERS = 9
LIMITED = Caller("k", "k", frozenset(Scope), KeyLimits(10**9, 10**12, 10**9))


@dataclass(frozen=True)
class Cost:
    """CPU microseconds: of one request without a key and with limits, and of one token of a limited stream."""

    request_off: float
    request_on: float
    token: float

    @property
    def request(self) -> float:
        """What the limits add to a request."""
        return self.request_on - self.request_off


def _status(number: int) -> NodeStatus:
    name = f"i-{number}"
    return NodeStatus(name, f"127.0.0.1:{9_000 + number}", f"{name}:2", NodeState.READY, Pool("z", "t"), "m", 1)


async def _requests(limiter: KeyLimiter, caller: Caller) -> float:
    """Return the CPU microseconds of one request."""
    estimate, machine = Estimate(50, TOKENS), cast(StreamMachine, SimpleNamespace(tokens=TOKENS, prompt_tokens=40))
    requests = [MemoryRequest() for _ in range(REQUESTS)]
    began = time.process_time()
    for request in requests:
        started = await limiter.begin(request, caller, estimate)
        started.watch(machine)
        started.close()
    return (time.process_time() - began) / REQUESTS * 1e6


async def _tokens(limiter: KeyLimiter) -> float:
    """Return the CPU microseconds of one token of many open streams, which are counted once a second."""
    estimate, machine = Estimate(50, TOKENS), SimpleNamespace(tokens=0, prompt_tokens=40)
    streams: list[KeyRequest] = []
    for _ in range(REQUESTS):
        streams.append(await limiter.begin(MemoryRequest(), LIMITED, estimate))
        streams[-1].watch(cast(StreamMachine, machine))
    began = time.process_time()
    for second in range(1, 6):
        machine.tokens = round(second * TOKENS_PER_S)
        limiter.table._settle(limiter.table.now())
    took = time.process_time() - began
    for stream in streams:
        stream.close()
    return took / (REQUESTS * 5 * TOKENS_PER_S) * 1e6


async def measure(rounds: int) -> Cost:
    """Measure; one round that does not count comes first."""
    node = lone_node(_status(0), [_status(number) for number in range(1, _PEERS + 1)], lambda: 0.0)
    limiter = KeyLimiter(node, AdmissionQueue(node, lambda: 0.5))
    off, on, token = list[float](), list[float](), list[float]()
    for number in range(rounds + 1):
        for caller, costs in ((ANYBODY, off), (LIMITED, on))[:: 1 if number % 2 else -1]:
            costs.append(await _requests(limiter, caller))
        token.append(await _tokens(limiter))
    return Cost(median(off[1:]), median(on[1:]), median(token[1:]))


def report(cost: Cost) -> Table:
    """Build the table."""
    shown = Table(title="limits of a key, CPU microseconds, medians")
    for column in ("what", "without a key", "with three limits", "difference", "goal"):
        shown.add_column(column)
    shown.add_row(
        "a request", f"{cost.request_off:.2f}", f"{cost.request_on:.2f}", f"{cost.request:.2f}", f"{GOAL_REQUEST_US:g}"
    )
    shown.add_row("a token", "0", f"{cost.token:.3f}", f"{cost.token:.3f}", f"{GOAL_TOKEN_US:g}")
    return shown


def main() -> int:
    """Measure and print the table; return 1 where a goal is missed."""
    rounds = parse_rounds("bench.key_limits", default=9, what=f"of {REQUESTS} requests, with limits and without")
    cost = asyncio.run(measure(rounds))
    Console().print(report(cost))
    return int(cost.request > GOAL_REQUEST_US or cost.token > GOAL_TOKEN_US)


if __name__ == "__main__":
    sys.exit(main())
