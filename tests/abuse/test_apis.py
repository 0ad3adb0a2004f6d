"""Abusive clients of a node's client API and peer API: it still serves other clients, and its memory returns."""

from __future__ import annotations

import contextlib
import re
import socket
from collections.abc import Iterator

import pytest

from node_agent.contract.names import ADMIN_PORT, FRONT_DOOR_PORT
from tests.abuse.conftest import SLOTS, UNREAD_S
from tests.abuse.fleet import MODEL, AbusedNode, eventually
from tests.abuse.wire import Canary, connect, error_code, get, post, rest, send, status_of

MIB = 1024 * 1024
STREAM = {"model": MODEL, "prompt": "It was a dark night", "stream": True, "ignore_eos": True}
LONG = {**STREAM, "max_tokens": 3_000}
CHUNKED = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n"
SILENCE_S = 10.0
"""The longest silence of another client's stream, on a busy machine. A flood once stopped it for minutes."""

BOTH_APIS = pytest.mark.parametrize("port", [8000, 8001], ids=["client API", "peer API"])


def assert_memory_returns(
    node: AbusedNode, before_mib: float, within_s: float = 15.0, allocator_mib: float = 8.0
) -> None:
    """Assert that the node's memory returns to 120 % of `before_mib`, and `allocator_mib` for the allocator.

    Journals that may be resumed are stored for five minutes. They are added: a growing buffer is up to twice its
    content.
    """

    def is_back() -> bool:
        stored_mib = metric(node, "synkti_replica_bytes") / MIB
        return node.rss_mib <= (before_mib + 2 * stored_mib) * 1.2 + allocator_mib

    eventually(f"memory is back at {before_mib:.0f} MiB; it was {node.rss_mib:.0f}", is_back, within_s)


def metric(node: AbusedNode, name: str) -> float:
    """Return the sum of a metric over all labels."""
    shown = get(node.host, "/metrics", ADMIN_PORT).decode("latin-1")
    return sum(float(value) for value in re.findall(rf"^{name}(?:{{.*}})? (\S+)$", shown, re.MULTILINE))


def wait_until_no_streams(node: AbusedNode) -> None:
    eventually("the node has no open stream", lambda: metric(node, "synkti_streams_open") == 0, 15.0)


@pytest.fixture(autouse=True)
def still_serves(node: AbusedNode) -> Iterator[None]:
    """Assert after each test that the node has no open stream and serves a request."""
    yield
    wait_until_no_streams(node)
    assert status_of(send(node.host, post("/v1/completions", {**STREAM, "max_tokens": 2}))) == [200]


# every byte outside of a body


@BOTH_APIS
@pytest.mark.parametrize(
    "flood",
    [b"0\r\n" + b"a: v\r\n" * 300_000, b"0\r\nx: " + b"v" * 2_000_000, b"1;a=" + b"v" * 2_000_000],
    ids=["equal trailers", "one trailer", "an extension"],
)
def test_a_flood_of_trailers_does_not_stall_other_clients(node: AbusedNode, port: int, flood: bytes) -> None:
    with Canary(node.host, LONG) as canary:
        answer = send(node.host, CHUNKED + flood, port)
        assert status_of(get(node.host, "/healthz")) == [200]
    assert status_of(answer) in ([431], [])  # [] where the connection was reset before the response was read
    assert canary.longest_s < SILENCE_S


# errors in the order of their requests


@pytest.mark.parametrize(
    "behind",
    [
        b"\x00garbage\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999\r\n\r\n",
        b"GET /" + b"a" * 70_000,
    ],
    ids=["garbage", "a body too large", "a head too large"],
)
def test_an_error_of_a_pipelined_request_is_sent_after_the_open_stream(node: AbusedNode, behind: bytes) -> None:
    with connect(node.host) as plain:
        plain.sendall(post("/v1/completions", {**STREAM, "max_tokens": 40}, more=""))
        first = plain.recv(100)
        plain.sendall(behind)
        answer = first + rest(plain)
    stream, end, error = answer.partition(b"data: [DONE]\n\n\r\n0\r\n\r\n")
    assert end
    assert status_of(stream) == [200]
    assert len(status_of(error)) == 1
    assert error.startswith(b"HTTP/1.1 4")


def test_an_error_of_a_pipelined_request_is_sent_after_the_buffered_answer(node: AbusedNode) -> None:
    whole = {"model": MODEL, "prompt": "x", "max_tokens": 20}
    answer = send(node.host, post("/v1/completions", whole, more="") + b"BAD\r\n\r\n")
    assert status_of(answer) == [200, 400]


# bodies


@pytest.mark.parametrize("uploads", [40, pytest.param(1_000, marks=[pytest.mark.long, pytest.mark.timeout(900)])])
def test_the_memory_of_dropped_uploads_is_freed(node: AbusedNode, uploads: int) -> None:
    upload = post("/v1/completions", b"a" * (16 * MIB))[:-200]

    def drop(times: int) -> None:
        for _ in range(times):
            with connect(node.host) as plain:
                plain.sendall(upload)

    drop(3)
    before = node.rss_mib
    drop(uploads)
    assert_memory_returns(node, before, allocator_mib=8.0 if uploads < 1_000 else 0.0)


@BOTH_APIS
def test_unfinished_bodies_share_one_memory_bound(node: AbusedNode, port: int) -> None:
    before = node.rss_mib
    upload = post("/v1/completions", b"a" * (16 * MIB))[:-1]
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(connect(node.host, port)) for _ in range(12)]
        for plain in held:
            with contextlib.suppress(ConnectionError):
                plain.sendall(upload)
        assert metric(node, "synkti_body_bytes") <= 64 * MIB
        assert node.rss_mib < before + 64 * 2 + 40
        small = {**STREAM, "max_tokens": 2, "user": "u" * 40_000}
        assert status_of(send(node.host, post("/v1/completions", small))) == [200], "there is room for a small body"
    assert_memory_returns(node, before)


@pytest.mark.parametrize("unit", [b"[],", b'{"a":1},', b'"",'], ids=["lists", "objects", "texts"])
def test_a_json_document_of_millions_of_values_gets_413(node: AbusedNode, unit: bytes) -> None:
    head = b'{"model":"tiny","prompt":"a story","stream":true,"x":['
    body = head + unit * ((16 * MIB - 100) // len(unit)) + b"0]}"
    before = node.rss_mib
    answer = send(node.host, post("/v1/completions", body))
    assert status_of(answer) == [413]
    assert error_code(answer) == "document_too_large"
    assert_memory_returns(node, before)


def test_large_streams_leave_only_the_headers_of_their_journals(node: AbusedNode) -> None:
    # Without replicas, which store a journal for five minutes.
    none = "x-synkti-durability: none\r\nconnection: close\r\n"
    body = {**STREAM, "max_tokens": 3, "user": "u" * 4_000_000}
    finish = post("/v1/completions", body, more=none)
    send(node.host, finish)
    before = node.rss_mib
    for _ in range(12):
        assert status_of(send(node.host, finish)) == [200]
    # The node stores its own journals for five minutes too: the headers of those without a replica.
    assert node.rss_mib < before * 1.2 + 8 + 12 * 4.5


# clients that do not read


@pytest.mark.parametrize(("path", "port"), [("/metrics", ADMIN_PORT), ("/v1/synkti/nodes", FRONT_DOOR_PORT)])
def test_responses_to_a_client_that_does_not_read_are_not_generated(node: AbusedNode, path: str, port: int) -> None:
    burst = f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode() * 8
    before, refused = node.rss_mib, metric(node, "synkti_connections_refused_total")
    with connect(node.host, port, receives=4_096) as plain:
        plain.settimeout(0.3)
        with contextlib.suppress(OSError):  # the node reads no further, or closes the connection
            for _ in range(4_000):
                plain.sendall(burst)
        assert node.rss_mib < before * 1.2 + 8
        eventually(
            "the connection is closed",
            lambda: metric(node, "synkti_connections_refused_total") > refused,
            UNREAD_S + 30.0,
        )
    assert_memory_returns(node, before)


def test_clients_that_stop_reading_lose_their_stream_slots(node: AbusedNode) -> None:
    stall_all_stream_slots(node)
    before = node.rss_mib  # a node that has just started grows with its first large load, and only then
    stall_all_stream_slots(node)
    assert_memory_returns(node, before)


def stall_all_stream_slots(node: AbusedNode) -> None:
    """Open as many streams as the node allows, read nothing, and wait until it has closed all of them."""
    with contextlib.ExitStack() as stack:
        stalled = [stack.enter_context(connect(node.host, receives=2_048)) for _ in range(SLOTS)]
        for number, plain in enumerate(stalled):
            body = {**LONG, "n": 6, "logprobs": 5, "prompt": f"story {number}", "max_tokens": 3_900}
            plain.sendall(post("/v1/completions", body, more=""))
        eventually("the streams are open", lambda: metric(node, "synkti_streams_open") >= SLOTS / 4)
        cut_off = metric(node, "synkti_connections_refused_total")
        eventually(
            "their connections are closed",
            lambda: metric(node, "synkti_connections_refused_total") >= cut_off + SLOTS / 4,
            UNREAD_S + 60.0,
        )
        eventually("no stream is open", lambda: metric(node, "synkti_streams_open") == 0, UNREAD_S + 60.0)


# connections


def test_health_routes_answer_when_the_connection_limit_is_reached(fleet: list[AbusedNode], node: AbusedNode) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(300):
            plain = stack.enter_context(connect(node.host))
            plain.sendall(b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n{")
        for path in ("/readyz", "/healthz"):
            assert status_of(get(node.host, path)) == [200]
        refused = get(node.host, "/v1/models")
        assert (status_of(refused), error_code(refused)) == ([429], "too_many_connections")
        assert status_of(get(node.host, "/v1/models", source="127.99.0.1")) == [200]
        assert fleet[1].sees() == len(fleet)


# invalid HTTP


@BOTH_APIS
@pytest.mark.parametrize(
    "raw",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
        b"GET /\r\n\r\n",
        b"GET / RTSP/1.0\r\nhost: x\r\n\r\n",
        b"DESCRIBE / RTSP/1.0\r\nhost: x\r\n\r\n",
        b"POST / HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"PROPFIND / HTTP/1.1\r\nhost: x\r\n\r\n",
    ],
)
def test_ambiguous_http_is_rejected(node: AbusedNode, port: int, raw: bytes) -> None:
    answer = send(node.host, raw, port)
    assert [status // 100 in (4, 5) for status in status_of(answer)] == [True]


@pytest.mark.parametrize("path", ["/v1/streams/", "/v1/", "/nowhere/"])
def test_a_long_path_is_not_repeated_in_the_error(node: AbusedNode, path: str) -> None:
    answer = get(node.host, path + "x" * 60_000)
    assert [status // 100 for status in status_of(answer)] == [4]
    assert len(answer) < 3_000


def test_half_closed_and_reset_connections_do_no_harm(node: AbusedNode) -> None:
    for _ in range(50):
        with connect(node.host) as plain:
            plain.sendall(post("/v1/completions", LONG, more=""))
            plain.recv(10)
            plain.shutdown(socket.SHUT_WR)
