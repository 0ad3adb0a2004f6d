"""What a process logs is bounded, whatever others cause."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator

import pytest

from node_agent.adapters.log_lines import MAX_CHARACTERS, BoundedLines
from node_agent.core.common.log_limit import LogLimit


@pytest.fixture
def log() -> Iterator[tuple[logging.Logger, io.StringIO]]:
    """A logger whose lines are bounded, at an instant that stays, and what it writes."""
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.addFilter(BoundedLines(lambda: 0.0, LogLimit(burst=2)))
    logger = logging.getLogger("node_agent.bounded")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.addHandler(handler)
    yield logger, written
    logger.removeHandler(handler)
    logger.propagate = True


def test_a_kind_is_the_place_that_logs_whatever_its_arguments(log: tuple[logging.Logger, io.StringIO]) -> None:
    logger, written = log
    for number in range(100):
        logger.warning("refused %d", number)
    logger.warning("something else")
    assert written.getvalue().splitlines() == ["refused 0", "refused 1", "something else"]


def test_dropped_lines_are_counted_on_the_next_line() -> None:
    now = 0.0
    bounds = BoundedLines(lambda: now, LogLimit(burst=1, per_s=1.0))
    records = [logging.LogRecord("n", logging.INFO, "", 0, "lost %s", ("i-1",), None) for _ in range(6)]
    assert [bounds.filter(record) for record in records[:5]] == [True, *[False] * 4]
    now = 1.0
    assert bounds.filter(records[5])
    assert records[5].getMessage() == "lost i-1 (4 more like this were left out)"


def test_a_line_stays_one_line_and_is_bounded(log: tuple[logging.Logger, io.StringIO]) -> None:
    logger, written = log
    logger.info("refused %s", "a\nforged line\x1b[2J")
    logger.info("refused %s", "x" * 1_000_000)
    first, second = written.getvalue().splitlines()
    assert first == r"refused a\nforged line\x1b[2J"
    assert len(second) < MAX_CHARACTERS + 50


def test_critical_lines_always_pass(log: tuple[logging.Logger, io.StringIO]) -> None:
    logger, written = log
    for _ in range(10):
        logger.critical("the recent events: %s", "x" * 3_000)
    assert written.getvalue().count("the recent events") == 10


def test_a_line_that_cannot_be_formatted_raises_nothing() -> None:
    bounds = BoundedLines(lambda: 0.0)
    assert bounds.filter(logging.LogRecord("n", logging.INFO, "", 0, "%d lines", ("x",), None))
