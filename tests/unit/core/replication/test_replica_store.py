"""Test the replica store: its bounds, takeovers, and what makes room."""

from __future__ import annotations

import contextlib
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node_agent.core.journal.epochs import Epoch
from node_agent.core.journal.stream_claim import NO_CLAIM, make_token, parse_token
from node_agent.core.replication.refusal import RefusalReason, ReplicaRefused
from node_agent.core.replication.replica_store import (
    FINISHED_DIVISOR,
    ORPHAN_AFTER_S,
    OVERHEAD_BYTES,
    RETENTION_S,
    EndReason,
    ReplicaStore,
)

ONE, TWO = Epoch(1, "i-a"), Epoch(2, "i-b")
KIB = 1024


def stored(store: ReplicaStore, stream: str = "s", size: int = 0, now: float = 0.0, client: str = "") -> None:
    store.open(stream, ONE, b"o" * size, 0, b"", now, client)


def gone(store: ReplicaStore, *streams: str) -> list[str]:
    return [stream for stream in streams if store.has_expired(stream)]


def reason_of(refused: pytest.ExceptionInfo[ReplicaRefused]) -> RefusalReason:
    return refused.value.reason


def test_a_replica_skips_duplicate_lines_and_refuses_a_gap() -> None:
    store = ReplicaStore()
    stored(store)
    assert store.append("s", ONE, 1, b"1\n2\n", 0.0) == 2
    assert store.append("s", ONE, 2, b"2\n3\n", 0.0) == 3
    with pytest.raises(ReplicaRefused) as refused:
        store.append("s", ONE, 5, b"5\n", 0.0)
    assert reason_of(refused) is RefusalReason.GAP
    taken = store.take_over("s", "i-b", 0.0)
    assert taken is not None
    assert (taken.lines, taken.seq, taken.written_epoch, taken.next_number) == (b"1\n2\n3\n", 3, ONE, 2)


def test_after_a_takeover_the_old_owner_is_refused_and_the_new_one_is_not() -> None:
    store = ReplicaStore()
    stored(store)
    store.take_over("s", "i-b", 0.0)
    for attempt in (lambda: store.append("s", ONE, 1, b"x\n", 0.0), lambda: stored(store)):
        with pytest.raises(ReplicaRefused) as refused:
            attempt()
        assert reason_of(refused) is RefusalReason.STALE
    assert store.open("s", TWO, b"", 1, b"1\n", 0.0) == 1


def test_a_journal_is_bounded_and_so_are_all_of_them_together() -> None:
    store = ReplicaStore(max_bytes=2 * KIB * 10, max_journal_bytes=10 * KIB)
    with pytest.raises(ReplicaRefused) as refused:
        stored(store, "large", 10 * KIB + 1)
    assert reason_of(refused) is RefusalReason.TOO_LARGE
    stored(store, "a", 10 * KIB - OVERHEAD_BYTES, client="one")
    stored(store, "b", 10 * KIB - OVERHEAD_BYTES, client="another")
    with pytest.raises(ReplicaRefused) as refused:
        stored(store, "c", client="a third")
    assert reason_of(refused) is RefusalReason.FULL
    with pytest.raises(ReplicaRefused) as refused:
        store.append("a", ONE, 1, b"x\n", 0.0)
    assert reason_of(refused) is RefusalReason.OVER_SHARE
    assert (len(store), store.held_bytes) == (2, 20 * KIB)


def test_a_journal_costs_more_than_its_bytes() -> None:
    store = ReplicaStore(max_bytes=4 * OVERHEAD_BYTES)
    stored(store, "a", client="one")
    stored(store, "b", client="one")
    stored(store, "c", client="another")
    stored(store, "d", client="another")
    with pytest.raises(ReplicaRefused):
        stored(store, "e", client="a third")


def test_abandoned_journals_are_dropped_before_live_ones_the_heaviest_clients_first() -> None:
    store = ReplicaStore(max_bytes=40 * KIB)
    for stream, client in (("first", "heavy"), ("second", "heavy"), ("light", "light"), ("live", "third")):
        stored(store, stream, 8 * KIB, client=client)
    for stream in ("light", "second", "first"):
        store.end(stream, ONE, EndReason.ABANDONED)
    stored(store, "new", 8 * KIB, client="fourth")
    assert gone(store, "first", "second", "light", "live") == ["second"], "of the heaviest, what it left first"
    stored(store, "newer", 19 * KIB, client="fifth")
    assert gone(store, "first", "light", "live") == ["first", "light"]


def test_a_client_that_resumes_makes_its_journal_live_again() -> None:
    store = ReplicaStore(max_bytes=20 * KIB)
    stored(store, "s", 8 * KIB, client="one")
    store.end("s", ONE, EndReason.ABANDONED)
    assert store.take_over("s", "i-b", 0.0) is not None
    stored(store, "other", 8 * KIB, client="another")
    with pytest.raises(ReplicaRefused) as refused:
        stored(store, "third", 8 * KIB, client="third")
    assert reason_of(refused) is RefusalReason.FULL
    assert not store.has_expired("s")


def test_one_client_has_half_of_the_room_and_drops_its_own_abandoned_journals() -> None:
    store = ReplicaStore(max_bytes=40 * KIB)
    stored(store, "a", 9 * KIB, client="greedy")
    stored(store, "b", 9 * KIB, client="greedy")
    with pytest.raises(ReplicaRefused) as refused:
        stored(store, "c", 9 * KIB, client="greedy")
    assert reason_of(refused) is RefusalReason.OVER_SHARE
    store.end("a", ONE, EndReason.ABANDONED)
    stored(store, "c", 9 * KIB, client="greedy")
    assert gone(store, "a", "b", "c") == ["a"]
    store.drop("b", ONE)
    stored(store, "small", client="greedy")
    store.end("small", ONE, EndReason.FINISHED)
    assert store._shares.bytes_of("greedy") == 10 * KIB, "what is finished is nobody's share"


def test_finished_journals_have_a_fixed_part_of_the_room() -> None:
    store = ReplicaStore(max_bytes=10_000 * KIB)
    for number in range(10_000):
        stored(store, f"s{number}", 100, client=f"client {number % 7}")
        store.end(f"s{number}", ONE, EndReason.FINISHED)
    assert 0 < store.held_bytes <= store.max_bytes / FINISHED_DIVISOR
    assert store.take_over("s9999", "i-b", 0.0) is not None, "the last ones are there"


STEPS = st.lists(
    st.tuples(st.sampled_from(["open", "append", "finish", "abandon", "take", "forget", "expire"]),
              st.sampled_from("abcdef"), st.sampled_from(["", "x", "y"]), st.integers(0, 9_000)),
    max_size=60,
)  # fmt: skip


@given(STEPS)
def test_the_room_is_bounded_and_every_byte_is_accounted_for(
    steps: list[tuple[str, str, str, int]],
) -> None:
    store = ReplicaStore(max_bytes=40 * KIB, max_journal_bytes=8 * KIB)
    for at, (what, stream, client, size) in enumerate(steps):
        journal = store._journals.get(stream)
        epoch = journal.epoch if journal is not None else ONE
        live = {name for name, kept in store._journals.items() if kept.end_reason is None}
        with contextlib.suppress(ReplicaRefused):
            match what:
                case "open":
                    store.open(stream, Epoch(epoch.number + at % 2, "i-b"), b"o" * size, 0, b"", float(at), client)
                case "append":
                    store.append(stream, epoch, (journal.seq if journal else 0) + 1, b"l" * size + b"\n", float(at))
                case "finish":
                    store.end(stream, epoch, EndReason.FINISHED)
                case "abandon":
                    store.end(stream, epoch, EndReason.ABANDONED)
                case "take":
                    store.take_over(stream, f"i-{at}", float(at))
                case "forget":
                    store.drop(stream, epoch)
                case "expire":
                    store.expire(float(at))
        if what in ("open", "append"):
            assert live <= store._journals.keys(), "a live journal never goes for another"
        assert store.held_bytes == sum(kept.size for kept in store._journals.values()) <= store.max_bytes
        shares: Counter[str] = Counter()
        for kept in store._journals.values():
            shares[kept.client] += 0 if kept.is_finished else kept.size
        assert +shares == store._shares._bytes
        assert store._finished_bytes == sum(kept.size for kept in store._journals.values() if kept.is_finished)
        assert set(store._finished) == {name for name, kept in store._journals.items() if kept.is_finished}


def test_only_finished_journals_make_room_the_oldest_first() -> None:
    store = ReplicaStore(max_bytes=64 * KIB)
    for stream in ("first", "second"):
        stored(store, stream)
    stored(store, "third", 30 * KIB, client="a client")
    store.end("second", ONE, EndReason.FINISHED)
    store.end("first", ONE, EndReason.FINISHED)
    stored(store, "fourth", 31 * KIB, client="another")
    assert gone(store, "first", "second", "third") == ["second"]
    assert store.take_over("third", "i-b", 0.0) is not None


def test_a_journal_is_kept_five_minutes_past_its_last_line_and_then_expired() -> None:
    store = ReplicaStore()
    stored(store, now=0.0)
    store.append("s", ONE, 1, b"x\n", 100.0)
    store.expire(100.0 + RETENTION_S)
    assert len(store) == 1
    store.expire(100.1 + RETENTION_S)
    assert (len(store), store.held_bytes, store.has_expired("s")) == (0, 0, True)
    assert store.take_over("s", "i-b", 0.0) is None


def test_an_orphan_is_replicated_until_it_has_an_owner_again() -> None:
    store = ReplicaStore()
    stored(store)
    stored(store, "finished")
    store.end("finished", ONE, EndReason.FINISHED)
    for stream in ("s", "finished", "nobody"):
        store.mark_orphaned(stream, ONE, 100.0)
    assert list(store.orphans(100.0 + ORPHAN_AFTER_S / 2)) == []
    assert [stream for stream, _ in store.orphans(100.0 + ORPHAN_AFTER_S)] == ["s"]
    store.take_over("s", "i-b", 200.0)
    assert list(store.orphans(200.0)) == []
    assert len(list(store.orphans(200.0 + ORPHAN_AFTER_S))) == 1, "who took it never came back with it"
    store.open("s", Epoch(2, "i-b"), b"", 0, b"", 200.0)
    assert list(store.orphans(300.0)) == []


def test_a_stream_is_taken_over_for_its_own_client_only() -> None:
    token = make_token("5" * 24, b"t" * 16)
    claim, store = token.claim("a" * 12), ReplicaStore()
    header = b'{"claim":"%b","kind":"x"}' % str(claim).encode()
    store.open("s", Epoch(1, "i-a"), header, 0, b"", 0.0)
    for foreign in (NO_CLAIM, token.claim(""), token.claim("b" * 12), parse_token("5" * 24).claim("a" * 12)):
        assert store.take_over("s", "i-b", 1.0, foreign) is None
        store.append("s", Epoch(1, "i-a"), 1, b"", 1.0)  # the owner is not fenced
    assert store.take_over("s", "i-b", 2.0, claim) is not None
    with pytest.raises(ReplicaRefused):
        store.append("s", Epoch(1, "i-a"), 1, b"", 3.0)


def test_only_its_client_learns_that_a_stream_has_expired() -> None:
    claim, store = make_token("5" * 24, b"t" * 16).claim("a" * 12), ReplicaStore()
    store.open("s", Epoch(1, "i-a"), b'{"claim":"%b"}' % str(claim).encode(), 0, b"", 0.0)
    store.expire(RETENTION_S + 1)
    assert store.has_expired("s", claim)
    assert not store.has_expired("s")
    assert not store.has_expired("s", make_token("5" * 24, b"t" * 16).claim("b" * 12))
