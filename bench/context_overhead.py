"""Measures what storing blocks costs while nothing fails: the same load with and without it, in turns.

Three kinds of load: on an engine without the connector; on one with it, with requests so named that nothing of them is
kept; on the same engine, kept. The last two take turns, so that the machine's weather meets both alike; what the
connector costs by being there is the first against the second, and needs a quiet machine.

CPU time of the whole engine for a token is what is compared first: wall-clock time is mostly what else runs here.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from bench.context_engine import ContextEngine, context_engine
from node_agent.kv.requests import PROBE

STREAMS, PROMPT, ANSWER = 8, 512, 512
_MAX_TOKENS = 4096
WITHOUT, THERE, KEEPS = "no connector", "connector, nothing kept", "connector, everything kept"


@dataclass(frozen=True)
class Cost:
    """Cost of one load: microseconds of CPU for a generated token, and tokens a second."""

    cpu_us: float
    tokens_per_s: float


Generate = Callable[[ContextEngine, Sequence[int], int, str], Any]
"""Generates one answer: engine, prompt, number of tokens, name."""


def run_load(engine: ContextEngine, seed: int, name: str, generate: Generate = ContextEngine.generate) -> Cost:
    """Generate STREAMS concurrent answers to prompts that are not cached."""
    draw = random.Random(f"{seed} {name}")  # noqa: S311 # prompts that differ, and are the same in every run
    prompts = [draw.choices(range(16, 256), k=PROMPT) for _ in range(STREAMS)]
    cpu, began = engine.cpu_s(), time.monotonic()
    with ThreadPoolExecutor(STREAMS) as at_once:
        list(at_once.map(lambda one: generate(engine, one[1], ANSWER, f"{name}-{seed}-{one[0]}"), enumerate(prompts)))
    durations = time.monotonic() - began
    if engine.folder.root.exists():
        engine.wait_for_writer()  # the writer's later work is part of the cost
    return Cost((engine.cpu_s() - cpu) / (STREAMS * ANSWER) * 1e6, STREAMS * ANSWER / durations)


def table(costs: Mapping[str, Sequence[Cost]], pairs: Mapping[str, tuple[str, str]]) -> str:
    """Format the medians of every load and of the pairs' ratios. pairs: the two loads, by the pair's name."""
    rounds = min(len(found) for found in costs.values())
    lines = [
        f"{STREAMS} streams at once, prompts of {PROMPT} tokens, answers of {ANSWER}; medians of {rounds} loads\n",
        "| | CPU for a token | tokens/s |\n|---|---|---|",
    ]
    for name, found in costs.items():
        cpu_us, tokens_per_s = median(c.cpu_us for c in found), median(c.tokens_per_s for c in found)
        lines.append(f"| {name} | {cpu_us:.0f} us | {tokens_per_s:.0f} |")
    for name, (one, other) in pairs.items():
        both = list(zip(costs[one], costs[other], strict=True))
        cpu = median(a.cpu_us / b.cpu_us for a, b in both) - 1
        rate = median(a.tokens_per_s / b.tokens_per_s for a, b in both) - 1
        lines.append(f"| {name}, median of the pairs | {cpu:+.1%} | {rate:+.1%} |")
    return "\n".join(lines)


def measure_overhead(scratch: Path, rounds: int) -> str:
    """Measure, one engine at a time; return the table."""
    costs: dict[str, list[Cost]] = {WITHOUT: [], THERE: [], KEEPS: []}
    with context_engine(scratch / "without", _MAX_TOKENS, keeps=False) as engine:
        run_load(engine, 0, "load")  # warm
        costs[WITHOUT] = [run_load(engine, number, "load") for number in range(1, rounds + 1)]
    with context_engine(scratch / "with", _MAX_TOKENS) as engine:
        run_load(engine, 0, "load")
        for number in range(1, rounds + 1):
            both = ((THERE, PROBE), (KEEPS, "load"))
            for name, requests in both if number % 2 else both[::-1]:
                costs[name].append(run_load(engine, number, requests))
    return table(costs, {"kept against not kept": (KEEPS, THERE)})
