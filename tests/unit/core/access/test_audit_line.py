"""Test a line of the audit log, and how a usage is found in an answer."""

from __future__ import annotations

from dataclasses import replace

import orjson

from node_agent.core.access.audit_line import AuditEntry
from node_agent.core.access.caller import ANYBODY, Caller, Scope

ENTRY = AuditEntry(
    1_800_000_000.0, "i-1", Caller("0" * 12, "chat", frozenset({Scope.INFERENCE})), "10.0.0.9", "POST",
    "/v1/completions", 200, 1.23456, "m", "a" * 24, 7, 0,
)  # fmt: skip


def test_a_line_names_the_key_and_what_it_did() -> None:
    line = ENTRY.to_line()
    assert line.endswith(b"}\n")
    assert line.count(b"\n") == 1
    assert orjson.loads(line) == {
        "at": "2027-01-15T08:00:00.000Z", "node": "i-1", "key": "0" * 12, "name": "chat", "address": "10.0.0.9",
        "method": "POST", "route": "/v1/completions", "status": 200, "duration_ms": 1234.6, "model": "m",
        "stream": "a" * 24, "tokens_in": 7, "tokens_out": 0,
    }  # fmt: skip


def test_a_line_without_a_key_a_model_and_a_stream_is_short() -> None:
    fields = orjson.loads(replace(ENTRY, caller=ANYBODY, model=None, stream="", tokens_in=None).to_line())
    assert fields["name"] == "anybody"
    assert not fields.keys() & {"model", "stream", "tokens_in"}


def test_an_invented_model_is_bounded_and_any_text_is_a_line() -> None:
    line = replace(ENTRY, model="\ud800\n" + "x" * 10_000).to_line()
    assert len(line) < 600
    assert line.count(b"\n") == 1
