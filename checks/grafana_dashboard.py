"""Generate monitoring/grafana.json: a dashboard of a fleet that Prometheus scrapes.

    python -m checks.grafana_dashboard    writes it

A dashboard by hand is a thousand lines of JSON in which the twelve queries are lost. Here they are the file.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PATH = Path(__file__).parents[1] / "monitoring" / "grafana.json"
SCHEMA_VERSION = 39
_WIDTH, _HEIGHT, _COLUMNS = 8, 8, 3


@dataclass(frozen=True)
class Panel:
    """One graph. queries: by their legend, in PromQL; unit: Grafana's name of it."""

    title: str
    meaning: str
    queries: dict[str, str]
    unit: str = "short"


def _quantile(percent: int, histogram: str, by: str = "") -> str:
    return f"histogram_quantile(0.{percent}, sum by ({by}le) (rate({histogram}_bucket[$__rate_interval])))"


def _quantiles(histogram: str) -> dict[str, str]:
    return {f"p{percent}": _quantile(percent, histogram) for percent in (50, 95, 99)}


PANELS = (
    Panel("Answers that ended with an error", "Has to stay at zero. docs/alarms.md#broken-streams",
          {"{{code}}": "sum by (code) (increase(synkti_streams_broken_total[$__rate_interval]))"}),
    Panel("Streams continued, by why their engine was lost", "What the fleet survived.",
          {"{{reason}}": "sum by (reason) (increase(synkti_continuations_total[$__rate_interval]))"}),
    Panel("Pause of a continued stream", "What an interruption costs a client.",
          _quantiles("synkti_continuation_pause_seconds"), "s"),
    Panel("Time to first token", "Of streamed requests, the wait for room included.",
          _quantiles("gen_ai_server_time_to_first_token_seconds"), "s"),
    Panel("Time per output token", "Pauses of continued streams included.",
          _quantiles("gen_ai_server_time_per_output_token_seconds"), "s"),
    Panel("Duration of requests", "All answers, streamed or not.",
          _quantiles("gen_ai_server_request_duration_seconds"), "s"),
    Panel("Events without a replica", "Tokens that went out while no other node had their record.",
          {"events": "sum(increase(synkti_unreplicated_events_total[$__rate_interval]))"}),
    Panel("Replicas lost", "Connections to replicas that broke.",
          {"{{reason}}": "sum by (reason) (increase(synkti_replica_losses_total[$__rate_interval]))"}),
    Panel("Clients that came back", "Streams that clients resumed after the loss of their entry.",
          {"{{outcome}}": "sum by (outcome) (increase(synkti_resumes_total[$__rate_interval]))"}),
    Panel("Streams open, by node", "Clients' streams on each entry.",
          {"{{instance}}": "synkti_streams_open"}),
    Panel("Requests at the engine, by node", "What automatic scaling uses.",
          {"{{instance}}": "synkti_engine_requests", "waiting": "sum(synkti_requests_waiting)"}),
    Panel("Tokens a second", "Delivered to clients, by entry.",
          {"{{instance}}": "rate(synkti_tokens_delivered_total[$__rate_interval])"}),
    Panel("Answers, by route and status", "499: the client left first.",
          {"{{route}} {{status}}": "sum by (route, status) (rate(synkti_requests_total[$__rate_interval]))"}, "reqps"),
    Panel("Peers, as nodes see each other", "Suspect ones are about to be removed.",
          {"{{state}}": "max by (state) (synkti_peers)"}),
    Panel("Loop lag, p99, by node", "Above 0.1 s a node is short of CPU.",
          {"{{instance}}": _quantile(99, "synkti_loop_lag_seconds", "instance, ")}, "s"),
)  # fmt: skip

_SOURCE = {"type": "prometheus", "uid": "${source}"}


def dashboard() -> dict[str, Any]:
    """Return the dashboard as Grafana imports it."""
    return {
        "title": "Synkti",
        "uid": "synkti",
        "tags": ["synkti"],
        "schemaVersion": SCHEMA_VERSION,
        "time": {"from": "now-3h", "to": "now"},
        "refresh": "30s",
        "templating": {
            "list": [{"name": "source", "label": "Prometheus", "type": "datasource", "query": "prometheus"}]
        },
        "panels": [_panel(number, panel) for number, panel in enumerate(PANELS)],
    }


def _panel(number: int, panel: Panel) -> dict[str, Any]:
    row, column = divmod(number, _COLUMNS)
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": panel.title,
        "description": panel.meaning,
        "datasource": _SOURCE,
        "gridPos": {"x": column * _WIDTH, "y": row * _HEIGHT, "w": _WIDTH, "h": _HEIGHT},
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + place), "expr": query, "legendFormat": legend, "datasource": _SOURCE}
            for place, (legend, query) in enumerate(panel.queries.items())
        ],
    }


def text() -> str:
    """Return the file's content."""
    return json.dumps(dashboard(), indent=1) + "\n"


if __name__ == "__main__":
    PATH.write_text(text(), encoding="utf-8")
