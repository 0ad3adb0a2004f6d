"""`synkti top`: rates between two looks, totals, and what could not be read."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cli import top as command
from cli.adapters.node_metrics import NodeMetrics
from cli.core.node_figures import NodeFigures
from cli.core.result import Unavailable
from cli.core.top import Sample, document, summary, table_row, tokens_per_s, unread
from node_agent.contract.states import NodeState
from tests.unit.cli.conftest import DeployedFleet, Run
from tests.unit.cli.fake_clock import FakeClock
from tests.unit.cli.test_node_figures import NODE

OTHER = replace(NODE, instance_id="i-0b", state=NodeState.DRAINING, deadline=1060.0)
BEFORE = Sample(10.0, {"i-0a": NodeFigures(tokens=100), "i-0b": Unavailable("it is away")})
NOW = Sample(
    12.0, {"i-0a": NodeFigures(streams=3, tokens=300, running=2, kv_use=0.256), "i-0b": Unavailable("it is away")}
)


def test_a_rate_is_between_two_looks() -> None:
    assert tokens_per_s(BEFORE, NOW, "i-0a") == 100.0
    assert tokens_per_s(None, NOW, "i-0a") is None
    assert tokens_per_s(BEFORE, NOW, "i-0b") is None
    assert tokens_per_s(NOW, replace(NOW, at=12.0), "i-0a") is None, "no time has passed"


def test_an_agent_that_was_restarted_has_no_rate() -> None:
    assert tokens_per_s(NOW, Sample(14.0, {"i-0a": NodeFigures(tokens=5)}), "i-0a") is None


def test_rows_and_totals() -> None:
    assert table_row(NODE, BEFORE, NOW, 1000.0) == (
        "i-0a", "ready", "3", "100", "2", "0", "26%", "g6.xlarge", "us-east-1a",
    )  # fmt: skip
    assert table_row(OTHER, BEFORE, NOW, 1000.0)[1:5] == ("draining, 60 s left", "-", "-", "-")
    assert summary([NODE, OTHER], 3, BEFORE, NOW) == (
        "1 of 3 nodes ready, 3 streams, 100 tokens/s, 2 requests running, 0 waiting"
    )
    assert "tokens/s after the next look" in summary([NODE], 1, None, NOW)
    assert unread([NODE, OTHER], NOW) == ("i-0b: it is away",)
    shown = document([NODE, OTHER], BEFORE, NOW)
    assert (shown[0]["tokens_per_s"], shown[1]["streams"]) == (100.0, None)


def test_where_output_is_no_terminal_one_table_is_printed(
    fleet: DeployedFleet, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet.ready()
    looks = iter([NodeFigures(tokens=10), NodeFigures(tokens=50, streams=2)] * 2)

    def read(self: NodeMetrics, nodes: object) -> object:
        found = next(looks)
        return {fleet.ids[0]: found, fleet.ids[1]: Unavailable("Systems Manager does not know it")}

    monkeypatch.setattr(NodeMetrics, "read", read)
    monkeypatch.setattr(command, "CLOCK", FakeClock().clock)
    done = run("top", "--every", "4")
    assert done.code == 0
    assert "2 of 2 nodes ready, 2 streams, 10 tokens/s" in done.out
    assert [fleet.ids[0], "ready", "2", "10", "0", "0", "-", "g6.xlarge", "us-east-1a"] in done.table
    assert f"not read: {fleet.ids[1]}: Systems Manager does not know it" in done.err
    shown = run("top", "--every", "4", "--json").document
    assert [node["tokens_per_s"] for node in shown["nodes"]] == [10.0, None]
    assert len(shown["unread"]) == 1
