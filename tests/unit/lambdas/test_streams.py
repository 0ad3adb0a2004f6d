"""The Lambdas and the streams of a node: what an event decides, what is written, and one suite over both stores."""

from __future__ import annotations

import importlib
import itertools
import time
from collections.abc import Callable
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest

from lambdas import orphan_check
from lambdas.adapters.memory import MemoryStreams
from lambdas.adapters.ports import RecordChanged, StreamRecords
from lambdas.adapters.stream_records import DynamoStreams
from lambdas.core.stream_decisions import StreamDecision, decide_streams
from lambdas.stream_events import handle_streams
from node_agent.contract.aws_events import (
    INTERRUPTION_EVENT,
    STATE_CHANGE_EVENT,
    Ec2Event,
    RebalanceRecommendation,
    SpotInterruption,
    StateChange,
)
from node_agent.contract.open_streams import OpenStream, OpenStreams, open_streams_from_item, open_streams_key
from node_agent.contract.ownership import Ownership, moves_forward, ownership_from_item, ownership_key
from node_agent.contract.states import NodeState
from node_agent.contract.table_schema import StreamStatus
from node_agent.contract.tags import NodeTags
from tests.unit.lambdas.test_handlers import Context, event

NODE, STREAM = "i-0123456789abcdef0", "ab" * 12
AT = 1_795_514_400.0
INCARNATION = int(AT - 3600) * 1000
RECORD = OpenStreams(
    NODE, INCARNATION, (OpenStream(STREAM, 1, NODE, 40, AT - 60, ("i-1",)),), int(AT) + 3600, {"i-1": "10.0.0.1:8001"}
)
OWNED = Ownership(STREAM, 2, "i-2+0a", StreamStatus.OPEN, 40, AT, AT, int(AT) + 7200)
WARNING = SpotInterruption("e", NODE, AT, "terminate")


def change(state: str, at: float = AT) -> StateChange:
    return StateChange("e", NODE, at, state)


@pytest.mark.parametrize("state", ["shutting-down", "terminated", "stopping", "stopped"])
def test_at_the_end_of_the_instance_its_streams_are_orphaned(state: str) -> None:
    decision = decide_streams(change(state), RECORD, AT + 5)
    (orphan,) = decision.orphans
    assert orphan.status is StreamStatus.ORPHANED
    assert (orphan.number, orphan.owner, orphan.seq, orphan.since) == (1, NODE, 40, AT - 60)
    assert (orphan.changed_at, orphan.replicas) == (AT + 5, {"i-1": "10.0.0.1:8001"})
    assert decision.ended_at == AT


def test_each_event_of_the_end_orphans_what_the_node_wrote_in_between() -> None:
    decision = decide_streams(change("terminated"), replace(RECORD, ended_at=AT - 30), AT)
    assert len(decision.orphans) == 1
    assert decision.ended_at is None


def test_a_warning_adds_the_deadline_and_a_repeated_one_nothing() -> None:
    assert decide_streams(WARNING, RECORD, AT).deadline == AT + 120
    assert decide_streams(WARNING, replace(RECORD, deadline=AT + 118), AT).deadline is None


NOTHING: list[tuple[Ec2Event, OpenStreams | None, str]] = [
    (change("running"), RECORD, "changes no stream"),
    (change("pending"), RECORD, "changes no stream"),
    (RebalanceRecommendation("e", NODE, AT), RECORD, "changes no stream"),
    (change("terminated"), None, "no open streams are recorded"),
    (change("terminated"), replace(RECORD, expires_at=int(AT)), "no open streams are recorded"),
    (change("stopped", AT - 3700), RECORD, "older than the record's incarnation"),
    (replace(WARNING, at=AT - 3700), RECORD, "older than the record's incarnation"),
]


@pytest.mark.parametrize(("happened", "record", "reason"), NOTHING)
def test_other_events_change_nothing(happened: Ec2Event, record: OpenStreams | None, reason: str) -> None:
    assert decide_streams(happened, record, AT + 5) == StreamDecision(reason)


class Store:
    """Either store, with what a node writes into it."""

    def __init__(self, streams: StreamRecords, table: Any) -> None:
        self.streams = streams
        self._table = table

    def put(self, record: OpenStreams) -> None:
        if isinstance(self.streams, MemoryStreams):
            self.streams.open[record.instance_id] = record
        else:
            self._table.put_item(Item=record.to_item())

    def ownership(self, stream: str) -> Ownership | None:
        if isinstance(self.streams, MemoryStreams):
            return self.streams.owned.get(stream)
        item = self._table.get_item(Key=ownership_key(stream)).get("Item")
        return None if item is None else ownership_from_item(item)


@pytest.fixture(params=["memory", "dynamodb"])
def store(request: pytest.FixtureRequest) -> Store:
    if request.param == "memory":
        return Store(MemoryStreams(), None)
    table = request.getfixturevalue("table")
    return Store(DynamoStreams(table), table)


def test_a_lost_node_leaves_orphans_and_a_late_event_does_not_undo_a_takeover(store: Store) -> None:
    store.put(RECORD)
    assert handle_streams(change("terminated"), store.streams, AT).orphaned == 1
    held = store.ownership(STREAM)
    assert held is not None
    assert held.status is StreamStatus.ORPHANED
    assert store.streams.advance([OWNED]) == 1
    outcome = handle_streams(change("terminated"), store.streams, AT + 60)
    assert (outcome.orphaned, outcome.others) == (0, 1)
    assert store.ownership(STREAM) == OWNED
    ended = store.streams.find(NODE)
    assert ended is not None
    assert ended.ended_at == AT


def test_a_warning_is_marked_once(store: Store) -> None:
    store.put(RECORD)
    handle_streams(WARNING, store.streams, AT)
    handle_streams(replace(WARNING, at=AT + 1), store.streams, AT)
    held = store.streams.find(NODE)
    assert held is not None
    assert held.deadline == AT + 120
    assert held.streams == RECORD.streams


def test_marks_depend_on_the_record_that_was_read(store: Store) -> None:
    with pytest.raises(RecordChanged):
        store.streams.mark_ended(RECORD, AT)
    store.put(RECORD)
    for stale in (replace(RECORD, incarnation=1),):
        with pytest.raises(RecordChanged):
            store.streams.mark_ended(stale, AT)
        with pytest.raises(RecordChanged):
            store.streams.mark_deadline(stale, AT)
    store.streams.mark_ended(RECORD, AT)
    store.streams.mark_deadline(RECORD, AT)
    with pytest.raises(RecordChanged):
        store.streams.mark_ended(RECORD, AT + 1)
    with pytest.raises(RecordChanged):
        store.streams.mark_deadline(RECORD, AT + 1)


SOME = [
    replace(OWNED, number=number, owner=owner, status=status)
    for number, owner, status in itertools.product((1, 2), (NODE, f"{NODE}+0a"), StreamStatus)
]


def test_a_stream_moves_forward_only_exactly_as_the_contract_has_it(store: Store) -> None:
    for number, (first, second) in enumerate(itertools.product(SOME, SOME)):
        name = f"{number:024x}"
        held, new = replace(first, stream=name), replace(second, stream=name, expires_at=int(AT) + 9)
        assert store.streams.advance([held]) == 1
        forward = moves_forward(held, new)
        assert store.streams.advance([new]) == int(forward), (held, new)
        assert store.ownership(name) == (new if forward else held)


def test_streams_that_stay_orphaned_are_counted(store: Store) -> None:
    orphan = replace(OWNED, status=StreamStatus.ORPHANED)
    store.streams.advance(
        [
            replace(orphan, stream=f"{1:024x}", changed_at=AT - 301),
            replace(orphan, stream=f"{2:024x}", changed_at=AT - 299),
            replace(orphan, stream=f"{3:024x}", changed_at=AT - 301, expires_at=int(AT) - 1),
            replace(orphan, stream=f"{4:024x}", changed_at=AT - 301, status=StreamStatus.CLOSED),
        ]
    )
    assert store.streams.orphaned(AT - 300, AT) == 1
    result = orphan_check.count_orphans(orphan_check.OrphanDependencies(store.streams, lambda: AT))
    assert result["reason"] == "1 streams are orphaned for more than 300 s"


def test_the_deployed_handlers_mark_and_orphan(
    table: Any, run_instance: Callable[[dict[str, str]], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    node = run_instance(NodeTags("synkti", NodeState.READY).encode())
    now = time.time()
    record = replace(
        RECORD,
        instance_id=node,
        incarnation=int(now - 60) * 1000,
        streams=(OpenStream(STREAM, 1, node, 40, now, ("i-1",)),),
        expires_at=int(now) + 3600,
    )
    table.put_item(Item=record.to_item())

    def handle(name: str, kind: str, detail: dict[str, str], number: int) -> None:
        module: ModuleType = importlib.reload(importlib.import_module(f"lambdas.handlers.{name}"))
        module.handler(event(kind, node, detail, f"e-{number}"), Context())

    handle("node_interrupted", INTERRUPTION_EVENT, {"instance-action": "terminate"}, 1)
    marked = open_streams_from_item(table.get_item(Key=open_streams_key(node))["Item"])
    assert marked.deadline is not None
    assert marked.deadline == pytest.approx(now + 120, abs=5)
    assert "Item" not in table.get_item(Key=ownership_key(STREAM))
    # The node's own record may have the event already: its streams are handled all the same.
    handle("node_state_changed", STATE_CHANGE_EVENT, {"state": "shutting-down"}, 2)
    handle("node_state_changed", STATE_CHANGE_EVENT, {"state": "shutting-down"}, 3)
    orphan = ownership_from_item(table.get_item(Key=ownership_key(STREAM))["Item"])
    assert orphan.status is StreamStatus.ORPHANED
    assert orphan.owner == node
