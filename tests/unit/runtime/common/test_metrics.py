"""The agent's metrics: their names, their help, and that the agent sets each of them."""

from __future__ import annotations

import re
from pathlib import Path

from prometheus_client.metrics import MetricWrapperBase

from node_agent.core.failure.loss import LossReason
from node_agent.runtime.common import metrics
from node_agent.runtime.common.metrics import Metrics

ROOT = Path(__file__).parents[3]
DECLARED = {name: value for name, value in vars(Metrics()).items() if isinstance(value, MetricWrapperBase)}

SET_BY_METHODS = {"requests", "routes", "refused", "peers", "health", "key_requests", "key_tokens"}
"""Set by `Metrics` itself: its `count_...`, `refusal_counter` and `watch_members`."""


def test_each_metric_has_our_prefix_and_its_help() -> None:
    described = {metric.name: metric.documentation for value in DECLARED.values() for metric in value.describe()}
    assert len(described) == len(DECLARED) > 30
    assert [name for name, text in described.items() if not re.fullmatch(r"synkti_[a-z_]+", name) or not text] == []


NOT_ASSERTED = {"prefill_rate", "unsent_to_peers", "checkpoints"}
"""Metrics that no test has seen move. None may be added; one that a test asserts has to be removed."""


def test_each_metric_is_asserted_by_a_test() -> None:
    tests = "\n".join(path.read_text() for path in ROOT.rglob("*.py"))
    names = {name: next(iter(metric.describe())).name for name, metric in DECLARED.items()}
    asserted = {
        name
        for name, shown in names.items()
        if re.search(rf"\b_?metrics\.{name}\b|\b{shown}(?:_total|_count|\b)", tests)
    }
    assert set(DECLARED) - asserted == NOT_ASSERTED


def test_membership_is_read_at_each_scrape() -> None:
    shown, figures = Metrics(), {"present": 5, "unvouched": 1, "dead": 2, "health": 0}
    shown.watch_members(lambda: figures, lambda: 1)
    figures["health"] = 4
    text = shown.exposition().decode()
    assert "synkti_gossip_health_penalty 4.0" in text
    assert '\nsynkti_peers{state="alive"} 4.0\n' in text


def test_no_series_says_when_another_began() -> None:
    shown = Metrics()
    shown.count_request("/v1/completions", 200)
    shown.pause.observe(1.0)
    assert b"synkti_requests_total" in shown.exposition()
    assert b"_created" not in shown.exposition()


def test_the_agent_sets_each_metric() -> None:
    own = Path(metrics.__file__)
    agent = "\n".join(path.read_text() for path in own.parents[2].rglob("*.py") if path != own)
    unset = {name for name in DECLARED if not re.search(rf"\b_?metrics\.{name}\b", agent)}
    assert unset == SET_BY_METHODS


def test_the_continuity_of_streams_is_read_from_the_counters_of_their_names() -> None:
    counted = Metrics()
    counted.losses.labels(LossReason.DIVERGED.value).inc(2)
    counted.losses.labels(LossReason.RESET.value).inc(5)
    counted.resumes.labels("journal_behind").inc()
    counted.unreplicated_events.inc(3)
    counted.tokens.inc(7)
    assert counted.continuity_figures() == {"tokens": 7, "differed": 2, "behind": 1, "unreplicated_events": 3}
