"""What the connector costs while nothing fails: the same answers with it and without, to prompts that are new to both.

CPU time of the whole engine for a token is what is compared: on a shared machine, wall-clock time is mostly weather.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from bench.context_engine import ContextEngine, context_engine

STREAMS, PROMPT, ANSWER = 8, 512, 512
_MAX_TOKENS = 4096


@dataclass(frozen=True)
class Cost:
    """Of one load: microseconds of CPU for a generated token, and tokens a second."""

    cpu_us: float
    tokens_per_s: float


def load(engine: ContextEngine, seed: int) -> Cost:
    """STREAMS answers at once, to prompts that nobody has cached."""
    draw = random.Random(seed)  # noqa: S311 # the same prompts for both engines
    prompts = [draw.choices(range(16, 256), k=PROMPT) for _ in range(STREAMS)]
    cpu, began = engine.cpu_s(), time.monotonic()
    with ThreadPoolExecutor(STREAMS) as at_once:
        list(at_once.map(lambda one: engine.tokens(one[1], ANSWER, f"load{seed}-{one[0]}"), enumerate(prompts)))
    took = time.monotonic() - began
    if engine.folder.root.exists():
        engine.settled()  # what the writer does afterwards is part of the cost
    return Cost((engine.cpu_s() - cpu) / (STREAMS * ANSWER) * 1e6, STREAMS * ANSWER / took)


def compared(without: Sequence[Cost], with_it: Sequence[Cost]) -> str:
    """A table, and the medians of the ratios of paired runs."""
    cpu = median(one.cpu_us / other.cpu_us for one, other in zip(with_it, without, strict=True)) - 1
    rate = median(one.tokens_per_s / other.tokens_per_s for one, other in zip(with_it, without, strict=True)) - 1
    lines = [
        f"{STREAMS} streams at once, prompts of {PROMPT} tokens, answers of {ANSWER}; medians of {len(without)} runs\n",
        "| | CPU for a token | tokens/s |\n|---|---|---|",
    ]
    for name, costs in (("without the connector", without), ("with it", with_it)):
        cpu_us, tokens_per_s = median(c.cpu_us for c in costs), median(c.tokens_per_s for c in costs)
        lines.append(f"| {name} | {cpu_us:.0f} us | {tokens_per_s:.0f} |")
    return "\n".join([*lines, f"| median of the paired ratios | {cpu:+.1%} | {rate:+.1%} |"])


def overhead(scratch: Path, rounds: int) -> str:
    """One engine at a time, each started twice, so that a start's luck and the machine's weather meet both alike."""
    costs: dict[bool, list[Cost]] = {False: [], True: []}
    for number, keeps in enumerate((False, True, True, False)):
        with context_engine(scratch / str(number), _MAX_TOKENS, keeps=keeps) as engine:
            load(engine, 0)  # warm
            costs[keeps] += [load(engine, seed) for seed in range(1, rounds + 1)]
    return compared(costs[False], costs[True])
