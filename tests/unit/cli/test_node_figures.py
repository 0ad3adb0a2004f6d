"""Nodes' metrics as the commands read them: parsed, summed, and from whichever way reaches the node."""

from __future__ import annotations

import http.server
import math
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.adapters import node_metrics
from cli.adapters.node_metrics import NodeMetrics
from cli.core import node_figures
from cli.core.node_figures import MAX_BYTES, NodeFigures, parse_figures, quantile_bound, summed
from cli.core.nodes import Node
from cli.core.result import Unavailable
from cli.errors import Failed
from node_agent.contract.states import NodeState
from node_agent.runtime.common.metrics import Metrics

NODE = Node(
    "i-0a", NodeState.READY, "running", "g6.xlarge", "us-east-1a", "spot", "127.0.0.1", None, None, "v2", 1000.0, None
)


def counted() -> Metrics:
    """A node's own metrics, after some interruptions."""
    metrics = Metrics()
    metrics.streams.set(3)
    metrics.tokens.inc(412)
    metrics.served.set(2)
    metrics.waiting.set(1)
    metrics.continuations.labels("engine_lost").inc(2)
    metrics.continuations.labels("peer_dead").inc()
    metrics.moved.labels("handoff").inc()
    metrics.broken.labels("fleet_full").inc(0)
    metrics.resumes.labels("taken").inc(4)
    metrics.resumes.labels("stream_not_found").inc()
    metrics.streams_unreplicated.labels("too_large").inc()
    metrics.unreplicated_events.inc(5)
    for pause_s in (0.02, 0.2, 0.2, 7.0):
        metrics.pause.observe(pause_s)
    return metrics


def test_a_nodes_own_metrics_are_read() -> None:
    text = counted().exposition().decode() + 'vllm:kv_cache_usage_perc{node="i-0a",engine="0"} 0.25\n'
    found = parse_figures(text)
    assert (found.streams, found.running, found.waiting, found.tokens, found.gaps) == (3, 2, 1, 412, 5)
    assert found.kv_use == 0.25
    assert found.continued == {"engine_lost": 2, "peer_dead": 1}
    assert (found.broken, found.moved, found.unkept) == ({}, 1, {"too_large": 1})
    assert found.resumed == {"taken": 4, "stream_not_found": 1}
    assert (found.pauses[0.025], found.pauses[0.25], found.pauses[math.inf]) == (1, 3, 4)


def test_each_series_that_is_read_is_one_of_the_agents() -> None:
    """A metric that is renamed would be read as zero."""
    text = counted().exposition().decode()
    assert [name for name in node_figures.NAMES if not name.startswith("vllm:") and name not in text] == []


@pytest.mark.parametrize("text", ["", "<html>", "synkti_requests_total 5\n", "synkti_streams_open many\n"])
def test_what_is_no_nodes_answer_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no metrics of a node"):
        parse_figures(text)


@given(st.text(max_size=200))
def test_any_line_beside_them_changes_nothing(junk: str) -> None:
    assert isinstance(parse_figures(f"synkti_streams_open 1\n# {junk}\n"), NodeFigures)
    try:
        parse_figures(junk)
    except ValueError as error:
        assert "no metrics" in str(error)  # noqa: PT017 # most texts are none, some are


def test_counts_of_several_nodes_are_summed_the_largest_first() -> None:
    assert list(summed([{"a": 1}, {"b": 5, "a": 2}, {}]).items()) == [("b", 5), ("a", 3)]


@pytest.mark.parametrize(("share", "bound"), [(0.5, 0.25), (0.25, 0.025), (0.99, 10.0), (1.0, 10.0)])
def test_a_quantile_is_the_bound_of_its_bucket(share: float, bound: float) -> None:
    pauses = parse_figures(counted().exposition().decode()).pauses
    assert quantile_bound([pauses, pauses], share) == bound
    assert quantile_bound([{}], share) is None


class Handler(http.server.BaseHTTPRequestHandler):
    """A node's admin listener."""

    body, status = counted().exposition(), 200
    keys: Sequence[str | None] = ()

    def do_GET(self) -> None:
        type(self).keys = [*self.keys, self.headers.get("authorization")]
        self.send_response(self.status)
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, *_: Any) -> None:
        """Print nothing."""


@pytest.fixture
def listener(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Handler]]:
    class Own(Handler):
        pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Own) as server:
        monkeypatch.setattr(node_metrics, "ADMIN_PORT", server.server_port)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield Own
        server.shutdown()


def test_a_listener_that_can_be_reached_is_read_with_the_key(listener: type[Handler]) -> None:
    found = NodeMetrics({"authorization": "Bearer k"}, None).read([NODE])["i-0a"]
    assert isinstance(found, NodeFigures)
    assert (found.tokens, listener.keys) == (412, ["Bearer k"])


def test_elsewhere_systems_manager_runs_a_command_on_the_node(listener: type[Handler]) -> None:
    listener.status = 401
    ran: list[tuple[str, str]] = []

    def run(instance_id: str, command: str) -> str:
        ran.append((instance_id, command))
        return counted().exposition().decode()

    metrics = NodeMetrics({}, run)
    for _ in range(2):
        found = metrics.read([NODE])["i-0a"]
        assert isinstance(found, NodeFigures)
        assert found.tokens == 412
    assert [instance_id for instance_id, _ in ran] == ["i-0a", "i-0a"]
    assert "synkti_streams_open|" in ran[0][1]
    assert len(listener.keys) == 1, "the second look does not try the listener again"


def test_a_node_that_cannot_be_read_has_its_reason(listener: type[Handler]) -> None:
    def refuse(instance_id: str, command: str) -> str:
        raise Failed("Systems Manager does not know i-0a")

    listener.status = 503
    assert NodeMetrics({}, refuse).read([NODE])["i-0a"] == Unavailable("Systems Manager does not know i-0a")
    alone = NodeMetrics({}, None).read([NODE, replace(NODE, instance_id="i-0b", private_address=None)])
    assert "503" in str(alone["i-0a"])
    assert alone["i-0b"] == Unavailable("it has no address")
    listener.status, listener.body = 200, b"x" * (MAX_BYTES + 1)
    assert "longer than" in str(NodeMetrics({}, None).read([NODE])["i-0a"])
    listener.body = b"<html>"
    assert "cannot be read" in str(NodeMetrics({}, None).read([NODE])["i-0a"])
