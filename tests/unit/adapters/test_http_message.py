"""Test how requests are read: every byte outside of a body is bounded, and what is no HTTP/1.1 request is refused."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node_agent.adapters.http_limits import Limits
from node_agent.adapters.http_message import MessageReader
from node_agent.core.http.request_head import ErrorResponse
from tests.unit.adapters.door_stage import ROOMY, Client, echo, post, run_scenario

CHUNKED = b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"


class Read:
    """A Receiver that remembers; room: how large a body may grow."""

    def __init__(self, room: int = 1 << 40) -> None:
        self.bodies: list[bytes] = []
        self.headers: list[dict[bytes, bytes]] = []
        self.faults: list[ErrorResponse] = []
        self.room = room

    def on_request(self, method: str, target: str, headers: dict[bytes, bytes], body: bytes) -> None:
        self.bodies.append(body)
        self.headers.append(headers)

    def is_refused(self, method: str, target: str, headers: dict[bytes, bytes]) -> bool:
        return b"x-refused" in headers

    def on_refused(self, method: str, target: str, headers: dict[bytes, bytes]) -> None:
        self.headers.append(headers)

    def on_fault(self, fault: ErrorResponse) -> None:
        self.faults.append(fault)

    def on_expect_continue(self) -> None:
        """It gets it."""

    def reserve_body(self, size: int) -> bool:
        return size <= self.room


def test_a_request_that_its_head_refuses_is_passed_on_without_its_body() -> None:
    read = read_all(
        b"POST / HTTP/1.1\r\nhost: x\r\nx-refused: 1\r\ncontent-length: 4\r\n\r\nbodyGET / HTTP/1.1\r\n", cut=7
    )
    assert (len(read.headers), read.bodies, read.faults) == (1, [], [])
    read = read_all(b"GET / HTTP/1.1\r\nhost: x\r\nx-refused: 1\r\n\r\n")
    assert read.bodies == [b""]  # without a body there is nothing to save


def read_all(raw: bytes, limits: Limits | None = None, cut: int = 65536) -> Read:
    read = Read()
    reader = MessageReader(read, limits or Limits())
    for at in range(0, len(raw), cut):
        reader.feed(raw[at : at + cut])
    reader.close()
    return read


# every byte outside of a body


@pytest.mark.parametrize(
    ("outside", "status"),
    [
        (b"0\r\n" + b"a: v\r\n" * 150_000, 431),
        (b"0\r\n" + b"".join(b"t%d: v\r\n" % n for n in range(100_000)), 431),
        (b"0\r\nx: " + b"v" * 900_000, 431),
        (b"1;a=" + b"v" * 900_000, 431),
        (b"0" * 900_000 + b"1\r\nx\r\n", 431),
        (b"1\r\nx\r\n" * 150_000, 413),
        (b"2;ab\r\nxx\r\n" * 90_000, 413),
    ],
    ids=["equal trailers", "trailers", "one trailer", "extension", "zeros", "small chunks", "chunks with extensions"],
)
def test_invalid_bytes_instead_of_a_body_are_bounded(outside: bytes, status: int) -> None:
    read = read_all(CHUNKED + outside)
    assert [fault.status for fault in read.faults] == [status]
    assert read.bodies == []


def test_empty_lines_between_requests_are_bounded() -> None:
    read = read_all(post("x") + b"\r\n" * 100_000)
    assert (read.bodies, [fault.status for fault in read.faults]) == ([b"x"], [431])


def test_headers_are_bounded_in_number() -> None:
    few, many = (b"".join(b"x: %d\r\n" % n for n in range(count)) for count in (98, 101))
    assert read_all(b"GET / HTTP/1.1\r\nhost: x\r\n" + few + b"\r\n").faults == []
    assert read_all(b"GET / HTTP/1.1\r\nhost: x\r\n" + many + b"\r\n").faults[0].status == 431


def test_a_few_trailers_are_dropped() -> None:
    read = read_all(CHUNKED + b"2\r\nab\r\n0\r\nexpires: now\r\nhost: y\r\n\r\n" + post("next"))
    assert read.bodies == [b"ab", b"next"]
    assert b"expires" not in read.headers[0]
    assert read.headers[0][b"host"] == b"x"


@given(st.lists(st.integers(1, 5_000), min_size=1, max_size=200), st.integers(1, 300))
def test_ordinary_chunks_of_any_size_are_accepted(sizes: list[int], cut: int) -> None:
    raw = CHUNKED + b"".join(b"%x\r\n%b\r\n" % (size, b"x" * size) for size in sizes) + b"0\r\n\r\n"
    read = read_all(raw, cut=cut * 37)
    assert (read.faults, [len(body) for body in read.bodies]) == ([], [sum(sizes)])


@given(st.lists(st.sampled_from(["", "a", "bb" * 40]), min_size=1, max_size=5), st.integers(1, 200))
def test_pipelined_requests_are_read_in_any_cuts(bodies: list[str], cut: int) -> None:
    read = read_all(b"".join(map(post, bodies)), cut=cut)
    assert (read.faults, read.bodies) == ([], [body.encode() for body in bodies])


# what is no request for this door


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nhost: a\r\nhost: \r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nhost: a b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nhost: a/b\r\n\r\n", 400),
        (b"GET /\r\n\r\n", 505),
        (b"GET / HTTP/2.0\r\nhost: x\r\n\r\n", 505),
        (b"GET / RTSP/1.0\r\nhost: x\r\n\r\n", 505),
        (b"GET / RTSP/1.1\r\nhost: x\r\n\r\n", 505),
        (b"OPTIONS rtsp://x/media RTSP/1.0\r\nhost: x\r\n\r\n", 505),
        (b"DESCRIBE / RTSP/1.0\r\nhost: x\r\n\r\n", 505),
        (b"DESCRIBE / HTTP/1.1\r\nhost: x\r\n\r\n", 501),
        (b"M-SEARCH * HTTP/1.1\r\nhost: x\r\n\r\n", 501),
        (b"PROPFIND / HTTP/1.1\r\nhost: x\r\n\r\n", 501),
        (b"TRACE / HTTP/1.1\r\nhost: x\r\n\r\n", 501),
        (b"CONNECT x:80 HTTP/1.1\r\nhost: x\r\n\r\n", 501),
        (b"POST / HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
        (b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked, chunked\r\n\r\n0\r\n\r\n", 501),
    ],
)
@pytest.mark.parametrize("cut", [1, 9, 10_000])
def test_other_protocols_and_ambiguous_heads_are_refused(raw: bytes, status: int, cut: int) -> None:
    async def story(client: Client) -> None:
        got, headers, body = await client.request(raw, cut)
        assert headers["connection"] == "close"
        assert "message" in json.loads(body)["error"]
        assert got in (status, 400)  # llhttp itself refuses some of them, with its own reason

    run_scenario(echo, story, ROOMY)


@pytest.mark.parametrize("host", ["x", "x:8000", "127.0.0.1:8000", "[::1]:80", "", "a_b.example"])
def test_a_valid_host_is_accepted(host: str) -> None:
    assert read_all(f"GET / HTTP/1.1\r\nhost: {host}\r\n\r\n".encode()).faults == []


def test_http_1_0_needs_no_host() -> None:
    assert read_all(b"GET / HTTP/1.0\r\n\r\n").faults == []
