"""monitoring/: each query is of metrics and labels that the agent has, and each alert has a page to read."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped] # a dependency of cfn-lint, without types
from prometheus_client.metrics import MetricWrapperBase

from checks.grafana_dashboard import PANELS, PATH, text
from node_agent.runtime.common.metrics import Metrics

ROOT = Path(__file__).parents[3]
ALERTS = ROOT / "monitoring" / "alerts.yml"
ADDED_BY_PROMETHEUS = {"instance", "le"}
SERIES = r"\b(?:synkti|gen_ai)_\w+"
FUNCTIONS = re.compile(r"\b(sum|max|count|rate|increase|histogram_quantile|by|and)\b")


def labels_by_series() -> dict[str, set[str]]:
    """Return the labels of each series that an agent shows."""
    found: dict[str, set[str]] = {}
    metrics = Metrics()
    for metric in (*vars(metrics).values(), *vars(metrics.generations).values()):
        if isinstance(metric, MetricWrapperBase):
            (family,) = metric.describe()
            endings = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}.get(family.type, ("",))
            found |= {family.name + ending: set(metric._labelnames) for ending in endings}
    return found


def rules() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load(ALERTS.read_text())["groups"]
    loaded: list[dict[str, Any]] = group["rules"]
    return loaded


QUERIES = [query for panel in PANELS for query in panel.queries.values()] + [rule["expr"] for rule in rules()]


@pytest.mark.parametrize("query", QUERIES)
def test_a_query_is_of_series_and_labels_that_exist(query: str) -> None:
    series = re.findall(SERIES, query)
    known = labels_by_series()
    assert series
    assert set(series) <= set(known)
    grouped = {label for by in re.findall(r"by \(([^)]*)\)", query) for label in by.split(", ")}
    assert grouped <= ADDED_BY_PROMETHEUS.union(*(known[each] for each in series))
    rest = FUNCTIONS.sub("", re.sub(r"by \([^)]*\)|\[[^]]*\]|" + SERIES, "", query))
    assert re.fullmatch(r"[\s()<>=,.\d]*", rest), "no other function"


def test_the_dashboard_is_what_its_source_says_and_its_panels_do_not_overlap() -> None:
    assert PATH.read_text() == text(), "write it anew: python -m checks.grafana_dashboard"
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in json.loads(text())["panels"]]
    assert len(set(places)) == len(places) == len(PANELS)


def test_each_alert_has_a_page_to_read() -> None:
    for rule in rules():
        page, _, section = rule["annotations"]["runbook"].partition("#")
        headings = [line.lstrip("# ").lower().replace(" ", "-") for line in (ROOT / page).read_text().splitlines()]
        assert not section or section in headings


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool (Debian's package prometheus) is not installed")
def test_prometheus_accepts_the_rules() -> None:
    checked = subprocess.run(["promtool", "check", "rules", str(ALERTS)], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr
