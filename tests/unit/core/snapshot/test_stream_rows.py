"""The streams that a snapshot describes: the oldest, a bounded number of them, without what would open them."""

from __future__ import annotations

import random

from node_agent.core.snapshot.stream_rows import MAX_ROWS, OpenStream, streams_to_json


def stream(number: int, began_at: float) -> OpenStream:
    return OpenStream(f"{number:024x}", "m", "i-1", 7, began_at, 1, 2, is_interrupted=False)


def test_the_oldest_come_first_and_their_number_is_bounded() -> None:
    streams = [stream(number, 100.0 + number) for number in range(3 * MAX_ROWS)]
    random.Random(1).shuffle(streams)
    rows = streams_to_json(streams)
    assert [row["began"] for row in rows] == [100.0 + number for number in range(MAX_ROWS)]


def test_a_row_has_figures_and_no_content() -> None:
    (row,) = streams_to_json([stream(1, 5.0)])
    assert row == {
        "id": f"{1:024x}", "model": "m", "engine": "i-1", "tokens": 7, "began": 5.0, "engines_used": 1, "replicas": 2,
        "interrupted": False,
    }  # fmt: skip
