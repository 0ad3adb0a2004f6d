"""Publish a node's load and what it counted of the promise to CloudWatch, once: a systemd timer runs this each minute.

    python -m node_agent.publish_metrics

It reads the agent's own metrics at the admin listener. Automatic scaling uses the requests in flight; alarms watch the
rest (docs/alarms.md). What was published last is in $RUNTIME_DIRECTORY, so that a failed turn is made up for by the
next. Environment: SYNKTI_CLUSTER, SYNKTI_ADMIN (the listener's address, for tests).

Exit codes: 0 published, or the agent does not answer · 69 it shows no load, or CloudWatch does not take it · 78 a
variable is not set. What went wrong is one line.
"""

from __future__ import annotations

import json
import os
import sys
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from http.client import HTTPException
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from node_agent.adapters.aws import CALL_ERRORS, aws_client
from node_agent.contract import environment as env
from node_agent.contract import names
from node_agent.core.node.promise_metrics import Counts, Sample, metric_data, read_counts

EXIT_UNAVAILABLE, EXIT_CONFIGURATION = 69, 78
ADMIN = "http://127.0.0.1:8003"
WITHIN_S = 5.0
MAX_METRICS_BYTES = 8 * 1024 * 1024
LAST = "published.json"

Publish = Callable[[list[dict[str, Any]]], None]


def _fetch(url: str) -> str:
    """Return what the agent shows. Raises OSError; ValueError if it is too long."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=WITHIN_S) as response:
        body: bytes = response.read(MAX_METRICS_BYTES + 1)
    if len(body) > MAX_METRICS_BYTES:
        raise ValueError(f"more than {MAX_METRICS_BYTES} bytes of metrics")
    return body.decode(errors="replace")


def _samples(text: str) -> Iterator[Sample]:
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            yield sample.name, sample.labels, sample.value


def _last(path: Path) -> Counts:
    """Return what was published last: nothing after a boot, or where the file has been damaged."""
    try:
        return Counts.from_json(json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return Counts()


def publish_once(text: str, folder: Path, cluster: str, publish: Publish) -> str | None:
    """Publish what the agent's metrics have grown by.

    text: of /metrics. folder: holds what was published last.

    Returns:
        None, or why nothing was published.
    """
    last = folder / LAST
    try:
        in_flight, counts = read_counts(_samples(text))
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        return f"the agent's metrics cannot be read: {error!r}"
    if in_flight is None:
        return "the agent shows no requests in flight"
    try:
        publish(metric_data(in_flight, counts, _last(last), cluster))
    except CALL_ERRORS as error:
        return f"CloudWatch: {' '.join(str(error).split())}"
    try:
        written = last.with_suffix(".new")
        written.write_text(json.dumps(counts.to_json()))
        written.replace(last)
    except OSError as error:
        return f"what was published cannot be noted, and is published again: {error}"
    return None


def cloudwatch_publisher(region: str | None = None) -> Publish:
    """Return a function that publishes metric data in Synkti's namespace. region: None has botocore find it."""

    def publish(data: list[dict[str, Any]]) -> None:
        client = aws_client("cloudwatch", region, 1)  # here, because without a region there is none
        client.put_metric_data(Namespace=names.METRICS_NAMESPACE, MetricData=data)

    return publish


def main(environ: Mapping[str, str] = os.environ) -> int:
    """Publish once; return the exit code."""
    if missing := [name for name in ("RUNTIME_DIRECTORY", env.CLUSTER) if not environ.get(name)]:
        print(f"not set: {', '.join(missing)}", file=sys.stderr)
        return EXIT_CONFIGURATION
    try:
        text = _fetch(environ.get("SYNKTI_ADMIN", ADMIN) + "/metrics")
    except (OSError, HTTPException) as error:
        # An agent that starts, or is restarted. A failure of this unit would make systemd call the instance degraded.
        print(f"the agent does not answer; nothing is published this time: {error}", file=sys.stderr)
        return 0
    except ValueError as error:
        fault: str | None = f"the agent's metrics: {error}"
    else:
        folder = Path(environ["RUNTIME_DIRECTORY"])
        fault = publish_once(text, folder, environ[env.CLUSTER], cloudwatch_publisher())
    if fault is not None:
        print(fault, file=sys.stderr)
        return EXIT_UNAVAILABLE
    return 0


if __name__ == "__main__":
    sys.exit(main())
