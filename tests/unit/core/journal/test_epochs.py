"""Test the ids of events."""

from __future__ import annotations

import pytest

from node_agent.core.journal.epochs import Epoch, EpochRange, EventId, event_id_suffix, parse_event_id

ONE, TWO = Epoch(1, "i-a"), Epoch(2, "i-b")


def test_event_ids_name_the_owner_once_there_was_another() -> None:
    runs = [EpochRange(0, ONE), EpochRange(3, TWO)]
    assert [event_id_suffix(runs, seq) for seq in (1, 3, 4)] == [b"", b"", b"/2.i-b"]
    assert parse_event_id("s/4/2.i-b") == EventId("s", 4, "2.i-b")


@pytest.mark.parametrize("text", ["", "s", "s/", "/1", "s/x", "s/-1", "s/1234567890123"])
def test_what_is_no_event_id_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not an event id"):
        parse_event_id(text)
