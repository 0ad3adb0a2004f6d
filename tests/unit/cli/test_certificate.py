"""`synkti certificate`: what the nodes counted, and what it does not know."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cli.adapters.node_metrics import NodeMetrics
from cli.core.continuity import Continuity, continuity_of, report_lines, unknown_lines, verdict
from cli.core.node_figures import NodeFigures, parse_figures
from cli.core.result import Result, Unavailable
from node_agent.contract.ownership import Ownership
from node_agent.contract.states import NodeState
from node_agent.contract.table_schema import NodeRecord, StreamStatus
from tests.unit.cli.conftest import DeployedFleet, Run
from tests.unit.cli.test_node_figures import NODE, counted
from tests.unit.cli.test_streams import table_with_index

FIGURES = parse_figures(counted().exposition().decode())
OTHER = replace(NODE, instance_id="i-0b")
NONE: frozenset[str] = frozenset()


def account(
    figures: NodeFigures = FIGURES, orphaned: Result[int] = 0, ended: Result[frozenset[str]] = NONE
) -> Continuity:
    return continuity_of([NODE, OTHER], {"i-0a": figures, "i-0b": figures}, orphaned, ended)


def test_the_counts_of_all_nodes_are_one_account() -> None:
    found = account()
    assert found.continued == {"engine_lost": 4, "peer_dead": 2}
    assert (found.resumed, found.moved, found.tokens, found.gaps) == (8, 2, 824, 10)
    assert found.broken == {}, "a client that is sent to another node has lost nothing"
    assert (found.pause_p50_s, found.pause_p99_s) == (0.25, 10.0)
    assert found.is_kept
    assert verdict(found).startswith("kept so far")
    lines = dict(report_lines(found))
    assert lines["continued"] == "6 streams continued at another engine (engine_lost 4, peer_dead 2)"
    assert lines["pauses"] == "half of them within 250 ms, 99 % within 10 s"
    assert lines["unreplicated"] == "2 streams not copied (too_large 2); 10 events sent before a copy"


def test_a_broken_stream_is_never_a_kept_promise() -> None:
    broken = account(replace(FIGURES, broken={"engine_lost": 1}))
    assert broken.is_kept is False
    assert "broken" in verdict(broken)
    waiting = account(orphaned=1)
    assert waiting.is_kept is None
    assert verdict(waiting) == "not known yet: 1 stream of lost nodes may still be taken up"


def test_a_fleet_without_interruptions_does_not_claim_to_have_survived_any() -> None:
    assert verdict(account(NodeFigures(tokens=7))).startswith("nothing was interrupted")


def test_what_is_not_known_is_named() -> None:
    away: Result[int] = Unavailable("the table has no index of streams")
    ended: Result[frozenset[str]] = frozenset({"i-0c"})
    figures: dict[str, Result[NodeFigures]] = {"i-0a": Unavailable("it does not answer")}
    found = continuity_of([NODE, OTHER], figures, away, ended)
    assert found.is_kept is None
    assert verdict(found).startswith("not known")
    lines = "\n".join(unknown_lines(found, away, ended))
    assert "i-0a was not read: it does not answer" in lines
    assert "i-0b was not read: not looked at" in lines
    assert "1 node of the last week ended" in lines
    assert "the table has no index of streams" in lines
    assert "a live fleet has no second answer to compare with" in lines
    assert "orphaned" not in dict(report_lines(found))


def test_pauses_beyond_the_last_bucket_have_no_figure() -> None:
    metrics = counted()
    metrics.pause.observe(99.0)
    found = account(parse_figures(metrics.exposition().decode()))
    assert dict(report_lines(found))["pauses"].endswith("99 % within more than 30 s")
    assert found.document()["pause_s_at_most"] == {"p50": 0.25, "p99": None}


def test_the_command_reads_nodes_and_table(fleet: DeployedFleet, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    table = table_with_index()
    table.put_item(Item=Ownership("b" * 24, 1, "i-9", StreamStatus.ORPHANED, 7, 1.0, 2.0, 2**40, {}).to_item())
    for instance_id in (fleet.ids[0], "i-9"):
        table.put_item(Item=NodeRecord(instance_id, "z", "t", NodeState.GONE, 1, 2**40).to_item())
    monkeypatch.setattr(NodeMetrics, "read", lambda self, nodes: {node.instance_id: FIGURES for node in nodes})
    shown = run("certificate", "--json").document
    assert (shown["kept"], shown["orphaned"], shown["nodes_gone"]) == (None, 1, 1)
    assert (shown["continued"]["total"], shown["nodes_read"]) == (6, list(fleet.ids))
    done = run("certificate")
    assert done.code == 0
    assert "synkti in us-east-1: not known yet" in done.out
    assert "1 stream of lost nodes, which no client has taken up" in done.out


def test_without_a_table_the_rest_is_shown(fleet: DeployedFleet, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NodeMetrics, "read", lambda self, nodes: {node.instance_id: FIGURES for node in nodes})
    shown = run("certificate", "--json").document
    assert (shown["orphaned"], shown["nodes_gone"]) == (None, None)
    assert any("no index of streams" in line for line in shown["not_known"])
