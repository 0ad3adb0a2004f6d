"""Test the head of a response: interim responses before it, its headers, its bound."""

from __future__ import annotations

import pytest

from node_agent.contract.names import SIGNS_HEADER
from node_agent.core.http.response_head import MAX_HEAD_BYTES, ResponseHead


def test_a_head_has_a_status_and_headers_by_names_in_lower_case() -> None:
    head = ResponseHead()
    assert (head.status, head.headers, head.is_complete) == (0, {}, False)
    head.add_header(b"Content-Type", b"text/plain")
    head.add_header(b"X-Twice", b"1")
    head.add_header(b"x-twice", b"2")
    head.end(404, keeps_alive=True)
    assert (head.status, head.is_complete, head.keeps_alive) == (404, True, True)
    assert head.headers == {b"content-type": b"text/plain", b"x-twice": b"2"}
    assert not head.announces_keepalives


def test_an_interim_response_is_no_head() -> None:
    head = ResponseHead()
    head.end(102, keeps_alive=True)
    assert (head.status, head.is_complete, head.announces_keepalives) == (102, False, False)


def test_an_interim_response_announces_keepalives_and_the_head_does_not_withdraw_it() -> None:
    head = ResponseHead()
    head.add_header(SIGNS_HEADER.title(), b"1")
    head.end(102, keeps_alive=True)
    assert head.announces_keepalives
    assert head.headers == {}, "they are not the response's: its signature does not cover them"
    head.end(200, keeps_alive=False)
    assert (head.is_complete, head.keeps_alive, head.announces_keepalives) == (True, False, True)


def test_a_head_alone_announces_no_keepalives() -> None:
    head = ResponseHead()
    head.add_header(SIGNS_HEADER, b"1")
    head.end(200, keeps_alive=True)
    assert not head.announces_keepalives


def test_a_trailer_is_dropped() -> None:
    head = ResponseHead()
    head.end(200, keeps_alive=True)
    head.add_header(b"content-type", b"text/event-stream")
    assert head.headers == {}


def test_an_incomplete_head_is_bounded() -> None:
    head = ResponseHead()
    assert head.fits(MAX_HEAD_BYTES)
    assert not head.fits(1)


@pytest.mark.parametrize(
    ("content_type", "is_event_stream"),
    [(b"text/event-stream; charset=utf-8", True), (b"text/event-stream", True), (b"application/json", False)],
)
def test_server_sent_events_are_recognized(content_type: bytes, is_event_stream: bool) -> None:
    head = ResponseHead()
    assert not head.is_event_stream
    head.add_header(b"content-type", content_type)
    assert head.is_event_stream is is_event_stream
