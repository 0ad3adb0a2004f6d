"""What agent and launcher send each other: every line round-trips, and a hostile line is a ValueError."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node_agent.core.engine.launch import (
    MAX_REPORT_BYTES,
    MAX_REQUEST_BYTES,
    Ended,
    LaunchRequest,
    Refused,
    Report,
    Started,
    format_report,
    format_request,
    format_stop,
    parse_report,
    parse_request,
    parse_stop,
)

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=40)


@given(st.lists(TEXT, min_size=1, max_size=5), st.dictionaries(TEXT, TEXT, max_size=5))
def test_a_request_is_one_line_and_is_read_as_it_was(argv: list[str], environ: dict[str, str]) -> None:
    line = format_request(LaunchRequest(tuple(argv), environ))
    assert line.count(b"\n") == 1
    assert parse_request(line) == LaunchRequest(tuple(argv), environ)


def test_a_request_that_would_not_fit_into_the_sockets_buffer_is_refused() -> None:
    with pytest.raises(ValueError, match="more than"):
        format_request(LaunchRequest(("vllm", "x" * MAX_REQUEST_BYTES), {}))


@pytest.mark.parametrize(
    "line",
    [
        b"", b"\n", b"{}", b"[]", b"null", b"\xff", b'{"argv": [], "environ": {}}', b'{"argv": [1], "environ": {}}',
        b'{"argv": "vllm", "environ": {}}', b'{"argv": ["vllm"], "environ": {"A": 1}}', b"[" * 100_000,
        b'{"argv": ["a\\u0000b"], "environ": {}}', b'{"argv": {"a": 1}, "environ": {}}',
        b'{"argv": ["a"], "environ": 7}',
    ],
)  # fmt: skip
def test_what_is_no_request_is_a_value_error(line: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_request(line)


@pytest.mark.parametrize("report", [Started(4711), Refused("No such file: 'vllm'"), Ended(-9), Ended(0), Ended(255)])
def test_a_report_is_read_as_it_was(report: Report) -> None:
    assert parse_report(format_report(report)) == report


def test_a_long_reason_is_cut_to_one_line() -> None:
    line = format_report(Refused("\n".join(["é" * 80] * 30)))
    assert (line.count(b"\n"), len(line) <= MAX_REPORT_BYTES) == (1, True)
    assert isinstance(parse_report(line), Refused)


@pytest.mark.parametrize(
    "line",
    [
        b"", b"\n", b"started\n", b"started 0\n", b"started 1\n", b"started -5\n", b"started 99999999\n", b"ended x\n",
        b"started 4194305\n", b"ended -65\n", b"ended 256\n", b"refused\n", b"ended \xc2\xb2\n", b"suspend 1\n",
        b"started " + b"9" * 900 + b"\n",
    ],
)  # fmt: skip
def test_a_report_that_no_launcher_sends_is_a_value_error(line: bytes) -> None:
    """The launcher runs as the engine's user: process groups 0 and 1 would be the agent's own, and init's."""
    with pytest.raises(ValueError, match=r"."):
        parse_report(line)


@pytest.mark.parametrize(("grace_s", "read_s"), [(0.0, 0.0), (1.5, 1.5), (-3.0, 0.0), (10_000.0, 600.0)])
def test_a_grace_is_bounded(grace_s: float, read_s: float) -> None:
    assert parse_stop(format_stop(grace_s)) == read_s


@pytest.mark.parametrize(
    "line", [b"", b"stop\n", b"stop nan\n", b"stop inf\n", b"stop -1\n", b"start 1\n", b"stop 601\n"]
)
def test_what_is_no_request_to_stop_is_a_value_error(line: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_stop(line)
