"""Test ack batches: one in flight, the next one collecting, and overdue messages are reported."""

from __future__ import annotations

import weakref

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node_agent.core.replication import ack_batches as batching
from node_agent.core.replication.ack_batches import AckBatches

LAG_S = 0.05


def put(batches: AckBatches, words: str, now: float = 0.0) -> None:
    for word in words.split():
        batches.add(word.encode(), word, now)


def test_a_batch_gathers_while_another_is_in_flight() -> None:
    batches = AckBatches(LAG_S)
    put(batches, "a")
    able = [batches.may_send]
    assert batches.next_batch() == b"a"
    put(batches, "b c")
    able.append(batches.may_send)
    assert batches.acknowledged(1) == ["a"]
    able.append(batches.may_send)
    assert batches.next_batch() == b"bc"
    assert batches.acknowledged(1) == ["b", "c"]
    able.append(batches.may_send)
    assert able == [True, False, True, False]


def test_a_replica_is_late_until_it_has_acknowledged() -> None:
    batches = AckBatches(LAG_S)
    put(batches, "a", 1.0)
    batches.next_batch()
    batches.overdue(2.0)
    late = [batches.is_lagging]
    batches.acknowledged(1)
    assert [*late, batches.is_lagging] == [True, False]


def test_only_the_first_message_of_a_batch_triggers_its_send() -> None:
    batches = AckBatches(LAG_S)
    assert [batches.add(b"x", None, 0.0) for _ in range(3)] == [True, False, False]


def test_a_message_is_overdue_from_its_enqueueing_and_reported_once() -> None:
    batches = AckBatches(LAG_S)
    put(batches, "a", 1.0)
    batches.next_batch()
    put(batches, "b", 1.02)
    assert batches.next_deadline() == pytest.approx(1.05)
    assert batches.overdue(1.049) == []
    assert batches.overdue(1.05) == ["a"]
    assert batches.next_deadline() == pytest.approx(1.07)
    assert batches.overdue(1.07) == ["b"], "it was not even sent"
    assert batches.overdue(9.0) == []
    assert batches.next_deadline() is None
    assert batches.acknowledged(1) == ["a"], "late is late, but it is there"


def test_a_message_that_joins_an_overdue_batch_has_its_own_time() -> None:
    batches = AckBatches(LAG_S)
    put(batches, "a", 1.0)
    batches.next_batch()
    put(batches, "b", 1.0)
    assert batches.overdue(2.0) == ["a", "b"]
    assert batches.is_lagging
    assert batches.add(b"c", "c", 2.0), "there is something new to see to"
    assert batches.overdue(2.04) == []
    assert batches.next_deadline() == pytest.approx(2.05)
    assert batches.overdue(2.05) == ["c"]


def test_an_acknowledgement_of_an_unsent_message_is_an_error() -> None:
    batches = AckBatches(LAG_S)
    put(batches, "a")
    with pytest.raises(ValueError, match="than are in flight"):
        batches.acknowledged(1)


@given(st.lists(st.text("xy", min_size=1, max_size=30), max_size=20), st.integers(1, 40), st.data())
def test_batches_are_bounded_and_every_message_is_sent_once_in_order(
    words: list[str], most: int, data: st.DataObject
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batching, "MAX_BATCH_BYTES", most)
        batches, sent, receipts = AckBatches(LAG_S), [], []
        left = list(words)
        while left or batches.queued_bytes:
            for word in left[: data.draw(st.integers(0 if batches.queued_bytes else 1, 5))]:
                batches.add(left.pop(0).encode(), word, 0.0)
            if data.draw(st.booleans()):
                batches.overdue(9.0)
            if batches.may_send:
                sent.append(batches.next_batch())
                receipts.append(batches.acknowledged(1))
        assert b"".join(sent).decode() == "".join(words)
        assert [receipt for batch in receipts for receipt in batch] == words
        for batch, got in zip(sent, receipts, strict=True):
            assert len(batch) <= most or len(got) == 1


def test_an_idle_link_holds_no_acknowledged_message() -> None:
    class Receipt:
        """What holds a whole stream."""

    batches = AckBatches(LAG_S)
    receipt = Receipt()
    held = weakref.ref(receipt)
    batches.add(b"line", receipt, 0.0)
    batches.next_batch()
    assert batches.acknowledged(1) == [receipt]
    del receipt
    assert held() is None
