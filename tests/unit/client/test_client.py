"""The client's machines: whole events in order over any connections, and the next node to try."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synkti_client._attempts import Attempts
from synkti_client._nodes import REFRESH_S, Nodes
from synkti_client._resumable_sse import RETRY_ELSEWHERE_CODES, ResumableSse
from synkti_client._retry_policy import RetryPolicy

EVENTS = [b'id: s/%d\ndata: {"n":%d}\n\n' % (n, n) for n in range(1, 12)]
DONE = b"data: [DONE]\n\n"


def error(code: str) -> bytes:
    return b'data: {"error":{"message":"m","code":"%b"}}\n\n' % code.encode()


@given(st.lists(st.tuples(st.integers(0, 11), st.integers(0, 30)), max_size=5), st.integers(1, 40))
def test_the_application_gets_every_event_once_over_any_connections(cuts: list[tuple[int, int]], step: int) -> None:
    """Each connection begins behind the last event that was got, and breaks off somewhere, in an event too."""
    continuity, got = ResumableSse("s"), b""
    for events, rest in [*cuts, (11, 0)]:
        continuity.begin_connection()
        after = int(continuity.last_event_id.partition("/")[2] or 0)
        data = b"".join(EVENTS[after:events]) + b"".join(EVENTS[max(after, events) :])[:rest]
        data += DONE if events == len(EVENTS) else b""
        for at in range(0, len(data), step):
            got += continuity.feed(data[at : at + step])
        if continuity.is_over:
            break
    assert got == b"".join(EVENTS) + DONE
    assert continuity.is_over


@pytest.mark.parametrize("code", sorted(RETRY_ELSEWHERE_CODES))
def test_an_error_of_the_node_alone_is_not_passed_to_the_application(code: str) -> None:
    continuity = ResumableSse("s")
    assert continuity.feed(EVENTS[0] + error(code) + EVENTS[1]) == EVENTS[0]
    assert (continuity.redirect_code, continuity.is_over) == (code, False)
    continuity.begin_connection()
    assert continuity.feed(EVENTS[1] + DONE) == EVENTS[1] + DONE


@pytest.mark.parametrize("data", [error("continuation_impossible"), b'data: {"error":"odd"}\n\n'])
def test_any_other_error_is_passed_to_the_application_and_ends_the_stream(data: bytes) -> None:
    continuity = ResumableSse("s")
    assert continuity.feed(data) == data
    assert continuity.is_over


def test_an_event_without_an_end_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("synkti_client._resumable_sse.MAX_EVENT_BYTES", 10)
    with pytest.raises(ValueError, match="without end"):
        ResumableSse("s").feed(b"data: 12345678")


def test_nodes_that_failed_come_last_until_they_answer() -> None:
    nodes = Nodes(["http://a:1", "http://b:1", "http://c:1"])
    nodes.mark_failed("http://a:1", 10.0)
    nodes.mark_failed("http://b:1", 11.0)
    assert nodes.by_preference() == ["http://c:1", "http://a:1", "http://b:1"]
    nodes.mark_responsive("http://b:1", 12.0)
    assert nodes.by_preference()[-1] == "http://a:1"


def test_the_list_is_read_from_any_node_and_the_configured_nodes_stay() -> None:
    nodes = Nodes(["http://a:1"])
    assert nodes.list_urls(100.0) == ["http://a:1/v1/synkti/nodes"]
    assert nodes.list_urls(100.0 + REFRESH_S / 2) == []
    nodes.update_from(
        "http://a:1/v1/synkti/nodes", b'{"nodes":[{"front":"b:1","model":"m"},{"front":"c:1","model":""}]}'
    )
    assert nodes.by_preference()[0] == "http://b:1"
    assert sorted(nodes.by_preference()[1:]) == ["http://a:1", "http://c:1"], "not now, but perhaps later"
    for nonsense in (b"", b"{}", b'{"nodes":[]}', b'{"nodes":[{"front":"b:1"}]}', b"[1]"):
        assert not nodes.update_from("http://a:1/v1/synkti/nodes", nonsense)
    assert len(nodes) == 3
    nodes.invalidate()
    assert nodes.list_urls(101.0)[0] == "http://b:1/v1/synkti/nodes"


def test_the_node_that_sent_the_list_is_the_preferred_one_once() -> None:
    body = b'{"nodes":[{"front":"b:1","model":"m"}]}'
    nodes = Nodes(["http://a:1"], "http://lb/v1/synkti/nodes")
    nodes.update_from("http://b:1/v1/synkti/nodes", body)
    assert (nodes.pop_last_responder(), nodes.pop_last_responder()) == ("http://b:1", None)
    nodes.update_from("http://lb/v1/synkti/nodes", body)
    assert nodes.pop_last_responder() is None


def test_a_stream_is_unknown_when_two_nodes_or_the_only_one_answer_so() -> None:
    for urls, expected in ((["http://a:1", "http://b:1"], [False, False, True]), (["http://a:1"], [True])):
        attempts = Attempts(Nodes(urls), RetryPolicy())
        answering = ["http://a:1", "http://a:1", "http://b:1"][: len(expected)]
        assert [attempts.on_not_found(url) for url in answering] == expected


def test_an_invalid_url_of_a_node_is_an_error_at_once() -> None:
    with pytest.raises(ValueError, match="not the URL of a node"):
        Nodes(["10.0.0.1:8000"])
    with pytest.raises(ValueError, match="at least one node"):
        Nodes([])


def test_each_node_is_tried_at_once_and_then_with_growing_delays() -> None:
    patience = RetryPolicy()
    assert [patience.backoff_s(attempt, 3) for attempt in (1, 2, 3)] == [0, 0, 0]
    waits = [patience.backoff_s(attempt, 3) for attempt in range(4, 40)]
    assert waits == sorted(waits)
    assert waits[-1] == patience.max_backoff_s
