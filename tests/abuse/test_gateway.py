"""The gateway connects to the nodes of its fleet only, whatever the request line of a client is."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.abuse.fleet import CHECKOUT, END_WITHIN_S, MODEL, AbusedNode
from tests.abuse.wire import post, send, status_of

HOST = "127.0.0.1"
BODY = {"model": MODEL, "prompt": "a", "max_tokens": 2}


@pytest.fixture(scope="module")
def gateway(fleet: list[AbusedNode]) -> Iterator[int]:
    """Run a gateway to the fleet, and yield its port."""
    nodes = [word for node in fleet for word in ("--node", f"http://{node.host}:8000")]
    process = subprocess.Popen(
        [sys.executable, "-m", "cli", "gateway", *nodes, "--port", "0", "--json"],
        cwd=CHECKOUT,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield int(json.loads(process.stdout.readline())["base_url"].split(":")[2].split("/")[0])
    finally:
        process.terminate()
        process.wait(END_WITHIN_S)
        if process.stdout is not None:
            process.stdout.close()


@pytest.fixture
def stranger() -> Iterator[socket.socket]:
    """Listen on a port, and assert at the end that the gateway has not connected to it."""
    with socket.create_server((HOST, 0)) as listener:
        listener.setblocking(False)
        yield listener
        with pytest.raises(BlockingIOError):
            listener.accept()


def get_statuses(port: int, head: str) -> list[int]:
    return status_of(send(HOST, f"{head}\r\nconnection: close\r\n\r\n".encode("latin-1"), port))


def test_a_plain_request_is_answered(gateway: int) -> None:
    assert get_statuses(gateway, "GET /v1/models HTTP/1.1\r\nhost: localhost") == [200]


@pytest.mark.parametrize("before", ["http://", "@", "/@", "//", "/\\", ":", "CONNECT "])
def test_no_request_target_makes_the_gateway_connect_elsewhere(
    gateway: int, stranger: socket.socket, before: str
) -> None:
    there = f"{HOST}:{stranger.getsockname()[1]}"
    line = f"CONNECT {there}" if before == "CONNECT " else f"GET {before}{there}/x"
    statuses = get_statuses(gateway, f"{line} HTTP/1.1\r\nhost: localhost")
    assert len(statuses) == 1
    assert statuses[0] >= 400


@pytest.mark.parametrize("target", ["/%00", "/%zz", "/v1/%ff", "/[", "/v1/models?\x7f", "/" + "a" * 60_000])
def test_odd_request_targets_get_an_error_response(gateway: int, target: str) -> None:
    statuses = get_statuses(gateway, f"GET {target} HTTP/1.1\r\nhost: localhost")
    assert len(statuses) == 1
    assert statuses[0] != 500


def test_a_page_of_another_origin_is_not_served(gateway: int) -> None:
    more = "host: evil.example\r\norigin: http://evil.example\r\nconnection: close\r\n"
    raw = (
        post("/v1/completions", BODY, more=more)
        .replace(b"host: x\r\n", b"")
        .replace(b"application/json", b"text/plain")
    )
    assert status_of(send(HOST, raw, gateway)) == [403]


def test_non_ascii_bytes_in_a_header_do_not_end_the_gateway(gateway: int) -> None:
    more = b"host: localhost\r\nx-a: b\xff\r\nconnection: close\r\n"
    raw = post("/v1/completions", BODY, more="").replace(b"host: x\r\n", more)
    assert status_of(send(HOST, raw, gateway)) in ([200], [400])


def test_a_flood_of_trailers_does_not_stop_the_gateway(gateway: int) -> None:
    raw = b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n"
    with contextlib.suppress(ConnectionError):
        assert status_of(send(HOST, raw + b"a: v\r\n" * 300_000, gateway)) in ([431], [])
    assert get_statuses(gateway, "GET /v1/models HTTP/1.1\r\nhost: localhost") == [200]
