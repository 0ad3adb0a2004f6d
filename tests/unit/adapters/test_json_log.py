"""Log records as JSON: one object a line, whatever is in them."""

from __future__ import annotations

import json
import logging

from node_agent.adapters.json_log import JsonFormatter


def record(message: str, *args: object) -> logging.LogRecord:
    made = logging.LogRecord("node_agent.peers", logging.WARNING, "peers.py", 7, message, args, None)
    made.created = 1_800_000_000.25
    return made


def test_a_record_is_one_object_on_one_line() -> None:
    line = JsonFormatter().format(record('%s said "no"\nénough', "i-1"))
    assert "\n" not in line
    assert json.loads(line) == {
        "at": "2027-01-15T08:00:00.250+00:00",
        "level": "WARNING",
        "logger": "node_agent.peers",
        "message": 'i-1 said "no"\nénough',
    }


def test_an_exception_is_in_the_same_object() -> None:
    logged = record("a turn ended")
    error = ValueError("a bug")
    logged.exc_info = (type(error), error, None)
    line = JsonFormatter().format(logged)
    assert "\n" not in line
    assert "ValueError: a bug" in json.loads(line)["error"]
