"""Measures what clients' keys and the audit log cost a request, paired with both off.

    .venv/bin/python -m bench.client_keys [--rounds 15]

In one process, without sockets: the same calls that the client API makes for each request, in turns with a node that
has keys and with one that has none. A token costs nothing: no call is made for it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from types import SimpleNamespace
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.command import parse_rounds
from node_agent.core.access.caller import Scope
from node_agent.core.access.client_key import ClientKey, hash_key, make_key
from node_agent.core.access.key_document import KeyDocument, KeyEntry
from node_agent.core.node.peer_clocks import RIGHT
from node_agent.core.openai import routes
from node_agent.runtime.client_api.audit import Audit
from node_agent.runtime.client_api.client_keys import ClientKeys
from node_agent.runtime.common.metrics import Metrics
from node_agent.testing.fake_keys import MemoryAuditLog, MemoryKeyStore

KEYS, REQUESTS = 200, 2_000
"""Keys in the document; requests of one round."""

PATH = "/v1/chat/completions"
_US = 1e6


@dataclass(frozen=True)
class Cost:
    """Microseconds of a request, a value for each round."""

    without: list[float]
    with_keys: list[float]
    with_both: list[float]


def key_number(number: int) -> ClientKey:
    """Return one of the keys."""
    return make_key(number.to_bytes(6), number.to_bytes(32))


def key_document() -> KeyDocument:
    """Return a document of KEYS keys."""
    pepper, scopes = b"p" * 64, frozenset({Scope.INFERENCE})
    keys = [key_number(number) for number in range(KEYS)]
    return KeyDocument(pepper, tuple(KeyEntry(k.key_id, "bench", hash_key(pepper, k), scopes, 0.0) for k in keys))


def requests(*, with_keys: bool, with_audit: bool) -> Callable[[int], None]:
    """Return a function that makes the calls for so many requests."""
    node: Any = SimpleNamespace(
        metrics=Metrics(),
        wall_clock=time.time,
        own_clock=RIGHT,
        instance_id="i-0",
        gossip=SimpleNamespace(monotonic=time.monotonic),
    )
    # A restarted agent's way: the document is in force at once.
    store = MemoryKeyStore(b"", key_document().to_bytes()) if with_keys else None
    keys = ClientKeys(node, store, lambda: 0.5)
    audit = Audit(node, MemoryAuditLog() if with_audit else None)
    request: Any = SimpleNamespace(
        method="POST", address="10.0.0.1", headers={b"authorization": b"Bearer " + key_number(KEYS // 2).text}
    )

    def make(count: int) -> None:
        for _ in range(count):
            record = audit.begin()
            scope = routes.required_scope(PATH)
            if scope is not None:
                record.caller = keys.identify(request.headers, PATH, scope)
            audit.end(record, request, PATH, 200)

    return make


def measure(rounds: int) -> Cost:
    """Measure so many rounds of each, in turns; the first one only warms."""
    makers = (
        requests(with_keys=False, with_audit=False),
        requests(with_keys=True, with_audit=False),
        requests(with_keys=True, with_audit=True),
    )
    found: tuple[list[float], ...] = ([], [], [])
    for number in range(rounds + 1):
        for make, values in zip(makers, found, strict=True):
            began = time.process_time()
            make(REQUESTS)
            if number:
                values.append((time.process_time() - began) / REQUESTS * _US)
    return Cost(*found)


def report(cost: Cost) -> Table:
    """Build the table: medians of the rounds, and the medians of the differences of each round."""
    shown = Table(title=f"CPU of a request, {KEYS} keys, medians of {len(cost.without)} rounds of {REQUESTS}")
    for column in ("with", "us a request", "more than off"):
        shown.add_column(column)
    shown.add_row("neither", f"{median(cost.without):.1f}", "")
    for name, values in (("keys", cost.with_keys), ("keys and the audit log", cost.with_both)):
        more = median(value - off for value, off in zip(values, cost.without, strict=True))
        shown.add_row(name, f"{median(values):.1f}", f"{more:.1f}")
    return shown


def main() -> int:
    """Measure, and print the table; return 0."""
    Console().print(report(measure(parse_rounds("bench.client_keys", default=15, what="of each kind of node"))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
