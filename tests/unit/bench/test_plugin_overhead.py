"""How loads are paired and compared; no engine is started."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest

from bench.context_engine import ContextEngine
from bench.context_overhead import ANSWER, STREAMS, Cost, table
from bench.plugin_overhead import TELLS, THERE, WITHOUT, measure, turns
from node_agent.kv.folder import BlockFolder


@dataclass
class FakeEngine:
    """Its CPU time grows by a second for each answer. requests: prompt and arguments of each."""

    folder: BlockFolder
    cached: set[tuple[int, ...]] = field(default_factory=set)
    requests: list[tuple[tuple[int, ...], Any]] = field(default_factory=list)

    def generate_streamed(self, context: Sequence[int], count: int, name: str, **fields: Any) -> None:
        prompt = tuple(context)
        assert prompt not in self.cached, "a prompt that is cached costs another engine's load less"
        assert count == ANSWER
        self.cached.add(prompt)
        self.requests.append((prompt, fields))

    def reset_prefix_cache(self) -> None:
        self.cached.clear()

    def cpu_s(self) -> float:
        return float(len(self.requests))


def test_every_load_is_first_middle_and_last_equally_often() -> None:
    orders = [turns(number) for number in range(6)]
    assert all(Counter(order) == Counter((WITHOUT, THERE, TELLS)) for order in orders)
    for place in range(3):
        assert set(Counter(order[place] for order in orders).values()) == {2}


def test_both_engines_get_the_same_prompts_and_one_load_requests_ids(tmp_path: Path, monkeypatch: Any) -> None:
    without, plugged = (FakeEngine(BlockFolder(tmp_path / name, 1)) for name in ("a", "b"))
    monkeypatch.setattr(
        ContextEngine, "generate_streamed", lambda engine, *one, **fields: engine.generate_streamed(*one, **fields)
    )
    costs = measure(cast(ContextEngine, without), cast(ContextEngine, plugged), 3)
    assert {name: len(found) for name, found in costs.items()} == {WITHOUT: 3, THERE: 3, TELLS: 3}
    assert all(cost.cpu_us == pytest.approx(1e6 / ANSWER) for found in costs.values() for cost in found)
    prompts = Counter(prompt for prompt, _ in without.requests)
    assert len(prompts) == STREAMS * 4
    assert Counter(prompt for prompt, _ in plugged.requests) == dict.fromkeys(prompts, 2)
    assert not any(fields for _, fields in without.requests)
    with_ids = [prompt for prompt, fields in plugged.requests if fields == {"vllm_xargs": {"synkti_tell_ids": 1}}]
    assert Counter(with_ids) == prompts


def test_a_table_has_medians_and_compares_the_loads_of_a_round() -> None:
    costs = {"off": [Cost(100, 10), Cost(200, 10), Cost(400, 10)], "on": [Cost(102, 9), Cost(200, 10), Cost(440, 8)]}
    lines = table(costs, {"on against off": ("on", "off")}).splitlines()
    assert lines[-3:] == [
        "| off | 200 us | 10 |",
        "| on | 200 us | 9 |",
        "| on against off, median of the pairs | +2.0% | -10.0% |",
    ]
    assert "medians of 3 loads" in lines[0]


def test_loads_without_a_pair_are_not_compared() -> None:
    with pytest.raises(ValueError, match="longer"):
        table({"off": [Cost(1, 1)] * 2, "on": [Cost(1, 1)]}, {"on": ("on", "off")})
