"""The bench of keys' limits: its table, and that it measures a request that is admitted."""

from __future__ import annotations

import asyncio

import pytest
from rich.console import Console

from bench import key_limits
from bench.key_limits import Cost, measure, report


def test_a_table_has_both_costs_and_their_goals() -> None:
    console = Console(record=True, width=120)
    console.print(report(Cost(request_off=1.0, request_on=9.5, token=0.02)))
    text = console.export_text()
    assert "8.50" in text
    assert "0.020" in text


def test_requests_and_tokens_have_a_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_limits, "REQUESTS", 20)
    cost = asyncio.run(measure(1))
    assert cost.request_on > cost.request_off > 0
    assert cost.token > 0
