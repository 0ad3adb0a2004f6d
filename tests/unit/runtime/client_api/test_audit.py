"""Test the audit log of a node: what has a line, what it holds at most, and a disk that takes nothing."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import orjson

from node_agent.contract.errors import StoreUnavailable
from node_agent.core.access.caller import Caller, Scope
from node_agent.runtime.client_api import audit as module
from node_agent.runtime.client_api.audit import MAX_PENDING_BYTES, Audit
from node_agent.runtime.common.metrics import Metrics
from node_agent.testing.fake_keys import MemoryAuditLog

ALICE = Caller("a" * 12, "alice", frozenset({Scope.INFERENCE}))
REQUEST: Any = SimpleNamespace(method="GET", address="10.0.0.9")


class _Stage:
    def __init__(self, log: Any) -> None:
        self.now = 10.0
        self.node = self._node()
        self.audit = Audit(self.node, log)

    def _node(self) -> Any:
        return SimpleNamespace(
            metrics=Metrics(),
            wall_clock=lambda: 1.8e9 + self.now,
            instance_id="i-1",
            gossip=SimpleNamespace(monotonic=lambda: self.now),
        )

    def request(self, path: str, status: int = 200) -> None:
        record = self.audit.begin()
        record.caller = ALICE
        self.now += 0.5
        self.audit.end(record, REQUEST, path, status)

    def count(self, outcome: str) -> float:
        lines = self.node.metrics.exposition().decode().splitlines()
        name = f'synkti_audit_lines_total{{outcome="{outcome}"}} '
        return next((float(line.removeprefix(name)) for line in lines if line.startswith(name)), 0.0)


def test_a_path_with_a_token_or_an_invented_one_is_a_label() -> None:
    log = MemoryAuditLog()
    stage = _Stage(log)
    for path in ("/v1/models", "/v1/streams/" + "5" * 56, "/v1/" + "x" * 10_000, "/health", "/readyz", "/load"):
        stage.request(path, 404)
    asyncio.run(stage.audit.flush())
    lines = [orjson.loads(line) for line in log.lines]
    assert [line["route"] for line in lines] == ["/v1/models", "/v1/streams/", "other"]
    assert {(line["name"], line["status"], line["duration_ms"]) for line in lines} == {("alice", 404, 500.0)}
    assert stage.count("written") == 3


def test_what_waits_is_bounded_and_what_is_left_out_is_counted() -> None:
    log = MemoryAuditLog()
    stage = _Stage(log)
    for _ in range(10_000):
        stage.request("/v1/models")
    asyncio.run(stage.audit.flush())
    assert sum(map(len, log.lines)) <= MAX_PENDING_BYTES
    assert stage.count("written") + stage.count("dropped") == 10_000
    assert stage.count("dropped") > 0
    stage.request("/v1/models")
    asyncio.run(stage.audit.flush())
    assert orjson.loads(log.lines[-1])["at"] > orjson.loads(log.lines[-2])["at"], "there is room again"


def test_a_disk_that_takes_nothing_loses_lines_and_nothing_else() -> None:
    class Full:
        async def write(self, lines: bytes) -> None:
            raise StoreUnavailable("the audit log cannot be written: No space left on device")

    stage = _Stage(Full())
    stage.request("/v1/models")
    asyncio.run(stage.audit.flush())
    assert (stage.count("written"), stage.count("dropped")) == (0, 1)


def test_without_an_audit_log_nothing_is_held() -> None:
    stage = _Stage(None)
    stage.request("/v1/models")
    asyncio.run(stage.audit.flush())
    asyncio.run(stage.audit.run())  # it ends at once
    assert stage.count("dropped") == 0


def test_lines_are_written_once_a_second(monkeypatch: Any) -> None:
    monkeypatch.setattr(module, "FLUSH_S", 0.0)
    log = MemoryAuditLog()
    stage = _Stage(log)

    async def scenario() -> None:
        running = asyncio.create_task(stage.audit.run())
        stage.request("/v1/models")
        for _ in range(5):
            await asyncio.sleep(0)
        running.cancel()

    asyncio.run(scenario())
    assert len(log.lines) == 1
