"""The bench of clients' keys: its requests pass the same checks as a client's, and its table."""

from __future__ import annotations

from rich.console import Console

from bench.client_keys import Cost, measure, report


def test_a_round_measures_all_three() -> None:
    cost = measure(1)
    assert len(cost.without) == len(cost.with_keys) == len(cost.with_both) == 1


def test_the_table_has_the_medians_of_differences() -> None:
    console = Console(record=True, width=120)
    console.print(report(Cost([1.0, 2.0, 1.0], [5.0, 7.0, 6.0], [9.0, 9.0, 9.0])))
    text = console.export_text()
    assert "keys and the audit log" in text
    assert "5.0" in text
    assert "8.0" in text
