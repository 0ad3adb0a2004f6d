"""Measures what the plug-in costs while nothing fails: the same streams with it and without, in turns.

    .venv/bin/python -m bench.plugin_overhead [--rounds 9]

Two real vLLMs on this machine, both with the plug-in installed, one with it switched off. Each round has three loads of
the same prompts, in an order that changes: streams of the engine without; the same of the one with it, which asks for
nothing of the plug-in's; and the same again, told the ids behind every chunk. The goal is below 3 % of CPU for a token.
Run it on a quiet machine: the engine that waits costs next to nothing, anything else does.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from bench.command import parse_rounds
from bench.context_engine import ContextEngine, context_engine
from bench.context_overhead import Cost, Generate, run_load, table

_MAX_TOKENS = 4096
WITHOUT, THERE, TELLS = "no plug-in", "plug-in, not asked for anything", "plug-in, ids told"
_TOLD = {"vllm_xargs": {"synkti_tell_ids": 1}}


def turns(number: int) -> tuple[str, ...]:
    """Return the order of a round's loads: each is first, middle and last equally often."""
    names = (WITHOUT, THERE, TELLS)
    first = number % len(names)
    return names[first:] + names[:first]


def measure(without: ContextEngine, with_plugin: ContextEngine, rounds: int) -> dict[str, list[Cost]]:
    """Run the three loads in each round, after one that does not count; return each load's costs, round by round."""
    loads: dict[str, tuple[ContextEngine, Generate]] = {
        WITHOUT: (without, ContextEngine.generate_streamed),
        THERE: (with_plugin, ContextEngine.generate_streamed),
        TELLS: (
            with_plugin,
            lambda engine, prompt, count, name: engine.generate_streamed(prompt, count, name, **_TOLD),
        ),
    }
    costs: dict[str, list[Cost]] = {name: [] for name in loads}
    for number in range(rounds + 1):
        for name in turns(number):
            engine, generate = loads[name]
            engine.reset_prefix_cache()  # else the second load of an engine would find its prompts cached
            cost = run_load(engine, number, "load", generate)
            if number:  # the first warms
                costs[name].append(cost)
    return costs


def main() -> int:
    """Start both engines, measure, and print the table; return 0."""
    count = parse_rounds("bench.plugin_overhead", default=9, what="of three loads, one of each kind")
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        off = context_engine(scratch / "without", _MAX_TOKENS, keeps=False, with_plugin=False)
        on = context_engine(scratch / "with", _MAX_TOKENS, keeps=False, with_plugin=True)
        with off as without, on as with_plugin:
            costs = measure(without, with_plugin, count)
    print(
        table(costs, {f"{THERE} against {WITHOUT}": (THERE, WITHOUT), f"{TELLS} against {WITHOUT}": (TELLS, WITHOUT)})
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
