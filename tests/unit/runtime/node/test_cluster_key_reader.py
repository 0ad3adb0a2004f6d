"""The cluster's keys are read again, and nodes with others are reported."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from node_agent.contract.errors import StoreUnavailable
from node_agent.contract.states import NodeState
from node_agent.core.common.cluster_keys import ClusterKeys, ClusterKeySet, cluster_key
from node_agent.core.node.status import TaggedNode
from node_agent.core.node.vouched_nodes import VouchedNodes
from node_agent.runtime.common.metrics import Metrics
from node_agent.runtime.node.cluster_key_reader import ClusterKeyReader
from node_agent.runtime.node.foreign_keys import ForeignKeyMonitor
from tests.borders.virtual_time import run_virtual

OLD, NEW = cluster_key(b"the old secret"), cluster_key(b"the new secret")
BOTH = ClusterKeySet(OLD, next=NEW)


class Secrets:
    """Secrets Manager that answers in turn; the last answer stays."""

    def __init__(self, *answers: bytes | Callable[[], bytes]) -> None:
        self.answers = list(answers)
        self.reads: list[float] = []

    async def read(self, name: str) -> bytes:
        assert name == "c/cluster-key"
        self.reads.append(asyncio.get_running_loop().time())
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return answer if isinstance(answer, bytes) else answer()


def away() -> bytes:
    raise StoreUnavailable("Secrets Manager is away")


def run(secrets: Secrets | None, for_s: float, chance: float = 0.5) -> tuple[ClusterKeys, list[bytes], Metrics]:
    keys, stored, metrics = ClusterKeys(OLD.secret), list[bytes](), Metrics()

    async def scenario() -> None:
        reader = ClusterKeyReader(secrets, "c/cluster-key", keys, stored.append, metrics, 100.0, lambda: chance)
        reading = asyncio.create_task(reader.run())
        await asyncio.sleep(for_s)
        assert not reading.done()
        reading.cancel()

    run_virtual(scenario)
    return keys, stored, metrics


def count(metrics: Metrics, outcome: str) -> float:
    return float(metrics.cluster_key_reads.labels(outcome)._value.get())


def test_a_change_is_used_stored_and_counted() -> None:
    document = BOTH.to_document().encode()
    keys, stored, metrics = run(Secrets(OLD.secret, document), 350.0)
    assert keys.keys == BOTH
    assert stored == [document], "once"
    assert count(metrics, "read") == 3


@pytest.mark.parametrize(("answer", "outcome"), [(away, "unavailable"), (b"{}", "unusable"), (b"", "unusable")])
def test_what_cannot_be_read_or_used_changes_nothing_and_is_read_again(
    answer: bytes | Callable[[], bytes], outcome: str, caplog: pytest.LogCaptureFixture
) -> None:
    keys, stored, metrics = run(Secrets(BOTH.to_document().encode(), answer), 350.0)
    assert keys.keys == BOTH
    assert len(stored) == 1
    assert count(metrics, outcome) == 2
    assert "keeps the cluster keys that it has" in caplog.text
    assert "secret" not in caplog.text.replace("set the secret right", "")


@pytest.mark.parametrize(("chance", "reads"), [(0.0, 6), (0.99, 2)])
def test_reads_are_spread(chance: float, reads: int) -> None:
    secrets = Secrets(OLD.secret)
    run(secrets, 301.0, chance)
    assert len(secrets.reads) == reads


def test_fixed_keys_are_never_read() -> None:
    keys, _, _ = run(None, 1_000.0)
    assert keys.keys == ClusterKeySet(OLD)


def test_nodes_with_another_key_are_reported_once_with_what_to_do(caplog: pytest.LogCaptureFixture) -> None:
    nodes, metrics = VouchedNodes(), Metrics()
    nodes.update(
        [
            TaggedNode("i-1", "x:1", NodeState.READY, "A" * 44, (OLD.key_id,)),
            TaggedNode("i-2", "x:2", NodeState.READY, "B" * 44, (NEW.key_id,)),
            TaggedNode("i-3", "x:3", NodeState.READY, "C" * 44, (NEW.key_id, OLD.key_id)),
            TaggedNode("i-4", "x:4", NodeState.READY, "D" * 44),
        ]
    )
    keys = ClusterKeys(OLD.secret)
    monitor = ForeignKeyMonitor(nodes, keys, metrics)
    monitor.check()
    monitor.check()
    assert metrics.foreign_nodes._value.get() == 1
    (line,) = caplog.messages
    assert "i-2; synkti cluster-key status" in line
    keys.replace(BOTH)
    monitor.check()
    assert metrics.foreign_nodes._value.get() == 0
