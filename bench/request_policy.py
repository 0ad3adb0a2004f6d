"""Measures what the checks of a request cost: the same bodies parsed with the policy and without, in turns.

    .venv/bin/python -m bench.request_policy [--rounds 15]

It runs in one process, without servers: parsing a body into a generation request, which every request does, alone and
with the policy between. CPU time; each round takes both in an order that changes, and a figure is the median of the
rounds' differences. The goal is 10 us for a usual request.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from statistics import median
from typing import Any

from rich.console import Console

from bench.command import parse_rounds, table
from node_agent.core.openai.generation_request import ApiRoute, parse_generation
from node_agent.core.openai.request_body import Body, read_body
from node_agent.core.policy.cache_salt import SaltMode
from node_agent.core.policy.request_policy import PolicySettings, RequestPolicy

REPETITIONS = 2_000
CONTEXT = 8_192
_TURNS: list[dict[str, Any]] = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Tell me a story about a night train."},
]
_CHAT: dict[str, Any] = {"model": "m", "messages": _TURNS, "temperature": 0.7, "max_tokens": 200, "stream": True}
_PARAMETERS = {
    "type": "object",
    "properties": {"city": {"type": "string", "description": "A city."}, "days": {"type": "integer"}},
    "required": ["city"],
}
_TOOL = {"type": "function", "function": {"name": "weather", "description": "Weather.", "parameters": _PARAMETERS}}
KINDS: dict[str, tuple[ApiRoute, dict[str, Any]]] = {
    "a chat": (ApiRoute.CHAT, _CHAT),
    "a chat with sampling fields": (
        ApiRoute.CHAT,
        {**_CHAT, "top_p": 0.9, "top_k": 40, "stop": ["###"], "seed": 1, "user": "u", "stream_options": {}},
    ),
    "a chat of 20 turns": (ApiRoute.CHAT, {**_CHAT, "messages": _TURNS * 10}),
    "a chat with parts": (
        ApiRoute.CHAT,
        {**_CHAT, "messages": [{"role": "user", "content": [{"type": "text", "text": "hello"}]}]},
    ),
    "a completion": (ApiRoute.COMPLETION, {"model": "m", "prompt": "It was a dark night", "max_tokens": 200}),
    "a message": (ApiRoute.MESSAGES, {**_CHAT, "system": "Be kind."}),
    "a chat with 10 tools": (ApiRoute.CHAT, {**_CHAT, "tools": [_TOOL] * 10}),
}
POLICIES = {
    "defaults": RequestPolicy(),
    "a salt for each key": RequestPolicy(
        PolicySettings(cache_salt=SaltMode.PER_KEY), secret=lambda: b"the bench's own key"
    ),
}


@dataclass(frozen=True)
class PolicyCost:
    """What a policy adds to one request, and what parsing it costs without; in microseconds of CPU."""

    added_us: float
    parsing_us: float


def parse(route: ApiRoute, raw: bytes, policy: RequestPolicy | None) -> None:
    """Parse a body as the client API does, with the policy or without."""
    body = read_body(raw)
    if policy is not None:
        body = Body(policy.apply(route.value, body.value, len(raw), CONTEXT, "key"), is_standard=body.is_standard)
    parse_generation(route, body)


def time_us(route: ApiRoute, raw: bytes, policy: RequestPolicy | None) -> float:
    """Return the CPU time of one parse in microseconds."""
    began = time.process_time_ns()
    for _ in range(REPETITIONS):
        parse(route, raw, policy)
    return (time.process_time_ns() - began) / REPETITIONS / 1_000


def measure(route: ApiRoute, raw: bytes, policy: RequestPolicy, rounds: int) -> PolicyCost:
    """Time both in turns, after a round that does not count."""
    differences, without = [], []
    for number in range(rounds + 1):
        times: dict[bool, float] = {}
        for is_on in ((False, True), (True, False))[number % 2]:
            times[is_on] = time_us(route, raw, policy if is_on else None)
        if number:
            differences.append(times[True] - times[False])
            without.append(times[False])
    return PolicyCost(median(differences), median(without))


def main() -> int:
    """Measure each kind of request with each policy, and print the table; return 0."""
    rounds = parse_rounds("bench.request_policy", default=15, what="of two timings, with the policy and without")
    rows = []
    for kind, (route, body) in KINDS.items():
        raw = json.dumps(body).encode()
        costs = [measure(route, raw, policy, rounds) for policy in POLICIES.values()]
        rows.append([kind, f"{costs[0].parsing_us:.1f}", *(f"{cost.added_us:.1f}" for cost in costs)])
    heads = ("request", "parsing, us", *(f"{name}, us more" for name in POLICIES))
    Console().print(table("checks of one request, CPU", heads, rows, names=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
