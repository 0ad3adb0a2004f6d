"""The HTTP server: requests in any cuts, answers in both forms, and a bound for everything that may come."""

from __future__ import annotations

import asyncio
import json
import logging
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node_agent.adapters import http_server_connection
from node_agent.adapters.http_server import bind
from node_agent.contract.errors import ConfigurationError
from node_agent.ports import ServerRequest
from tests.generated import examples
from tests.unit.adapters.door_stage import LIMITS, Client, another, echo, in_pieces, post, run_scenario, until

# requests and answers


@settings(max_examples=examples(60), deadline=None)
@given(st.lists(st.text("abc", max_size=20), min_size=1, max_size=3), st.integers(1, 60))
def test_requests_are_read_whole_in_any_cuts_and_answered_in_order(bodies: list[str], cut: int) -> None:
    async def story(client: Client) -> None:
        raw = b"".join(map(post, bodies))
        status, headers, body = await client.request(raw, cut)
        assert (status, headers["x-target"], body) == (200, "/a%20b?q=1", f"POST /a b {bodies[0]}".encode())
        for rest in bodies[1:]:
            assert (await client.answer())[2] == f"POST /a b {rest}".encode()

    run_scenario(echo, story)


def test_an_answer_in_pieces_is_chunked_and_the_connection_stays_open() -> None:
    async def story(client: Client) -> None:
        for _ in range(2):
            status, headers, body = await client.request(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            assert (status, headers["transfer-encoding"], body) == (200, "chunked", b"one two three")
            assert "date" in headers
            assert "connection" not in headers

    run_scenario(in_pieces, story)


def test_an_http_1_0_client_gets_pieces_unchunked_and_the_connection_ends() -> None:
    async def story(client: Client) -> None:
        status, headers, body = await client.request(b"GET / HTTP/1.0\r\n\r\n")
        assert (status, headers["connection"], body) == (200, "close", b"one two three")

    run_scenario(in_pieces, story)


def test_a_head_is_answered_as_a_get_without_its_body() -> None:
    async def story(client: Client) -> None:
        client.writer.write(b"HEAD /x HTTP/1.1\r\nhost: x\r\n\r\n" + post("next"))
        head = await client.reader.readuntil(b"\r\n\r\n")
        assert b"content-length: 7\r\n" in head
        assert (await client.answer())[2] == b"POST /a b next"

    run_scenario(echo, story)


def test_a_client_that_waits_for_100_continue_gets_it() -> None:
    async def story(client: Client) -> None:
        raw = post("body", more="expect: 100-continue\r\n")
        assert (await client.request(raw[:-4]))[0] == 100
        assert (await client.request(raw[-4:]))[2] == b"POST /a b body"

    run_scenario(echo, story)


def test_an_upgrade_to_http_2_is_answered_in_http_1_and_the_connection_ends() -> None:
    async def story(client: Client) -> None:
        offer = "connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABk\r\n"
        status, headers, body = await client.request(post("body", more=offer))
        assert (status, headers["connection"], body) == (200, "close", b"POST /a b body")
        assert await client.is_closed()

    run_scenario(echo, story)


def test_a_repeated_header_is_one_with_both_values() -> None:
    seen = []

    async def look(request: ServerRequest) -> None:
        seen.append(request.headers[b"x-a"])
        await echo(request)

    async def story(client: Client) -> None:
        await client.request(post("", more="X-A: 1\r\nx-a: 2\r\n"))
        assert seen == [b"1, 2"]

    run_scenario(look, story)


# events of the client at the handler


def test_a_handler_gets_a_disconnect_before_and_during_its_answer() -> None:
    async def story(client: Client) -> None:
        for begun in (False, True):
            gone, started = asyncio.Event(), asyncio.Event()
            script.append((begun, started, gone))
            other = await another(client)
            other.writer.write(post("x"))
            await started.wait()
            other.writer.close()
            await gone.wait()

    script: list[tuple[bool, asyncio.Event, asyncio.Event]] = []

    async def slow(request: ServerRequest) -> None:
        begun, started, gone = script[-1]
        if begun:
            request.begin(200, b"text/plain")
            request.write(b"x")
        request.when_gone(gone.set)
        started.set()
        await gone.wait()
        assert request.is_gone
        request.write(b"to nobody")
        request.end()

    run_scenario(slow, story)


def test_a_handler_gets_the_congestion_of_a_client_and_its_end() -> None:
    lags: list[bool] = []

    async def much(request: ServerRequest) -> None:
        request.when_congested(lags.append)
        request.begin(200, b"text/plain")
        while not lags:
            request.write(b"x" * 100_000)
            await asyncio.sleep(0)
        await until(lambda: len(lags) > 1)
        request.end()

    async def story(client: Client) -> None:
        client.writer.write(post("x"))
        await until(lambda: lags == [True])
        await client.answer()
        assert lags == [True, False]

    run_scenario(much, story)


def test_a_bug_in_the_middle_of_an_answer_ends_it_as_broken(caplog: pytest.LogCaptureFixture) -> None:
    async def broken(request: ServerRequest) -> None:
        if request.body == b"begun":
            request.begin(200, b"text/plain")
            request.write(b"half")
        raise RuntimeError("a bug")

    async def story(client: Client) -> None:
        other = await another(client)
        status, _, body = await other.request(post("new"))
        assert status == 500
        assert json.loads(body)["error"]["code"] == "internal_error"
        client.writer.write(post("begun"))
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await client.answer()

    with caplog.at_level(logging.ERROR):
        run_scenario(broken, story)
    assert "a bug" in caplog.text


# bounds


@pytest.mark.parametrize("how", ["announced", "announced, and 100-continue is expected", "chunked"])
def test_a_body_is_bounded_and_the_client_gets_the_reason(how: str) -> None:
    async def story(client: Client) -> None:
        more = "expect: 100-continue\r\n" if "leave" in how else ""
        raw = post("x" * 101, more=more)
        if how == "chunked":
            raw = b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n" + b"32\r\n" + b"x" * 50 + b"\r\n"
            raw += b"33\r\n" + b"x" * 51 + b"\r\n"
        status, headers, body = await client.request(raw)
        assert (status, headers["connection"]) == (413, "close")
        assert json.loads(body)["error"]["code"] == "request_too_large"

    run_scenario(echo, story)


@pytest.mark.parametrize("end", [b"\r\n\r\n", b""], ids=["whole", "without end"])
@pytest.mark.parametrize("cut", [700, 10_000])
def test_a_head_is_bounded(end: bytes, cut: int) -> None:
    async def story(client: Client) -> None:
        status, _, body = await client.request(b"GET / HTTP/1.1\r\nx: " + b"y" * 3_000 + end, cut)
        assert status == 431
        assert json.loads(body)["error"]["code"] == "headers_too_large"

    run_scenario(echo, story)


@pytest.mark.parametrize(
    "raw",
    [
        b"nonsense\r\n\r\n",
        b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
        b"POST / HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
        b"POST / HTTP/1.1\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\ncontent-length: -1\r\n\r\n",
    ],
)
def test_an_ambiguous_request_is_refused(raw: bytes) -> None:
    async def story(client: Client) -> None:
        status, headers, body = await client.request(raw)
        assert (status, headers["connection"]) == (400, "close")
        assert json.loads(body)["error"]["code"] == "invalid_http"

    run_scenario(echo, story)


def test_connections_are_bounded_and_one_too_many_gets_an_error() -> None:
    async def story(client: Client) -> None:
        await client.request(post("x"))
        held = [await another(client) for _ in range(LIMITS.connections - 1)]
        for one in held:
            assert (await one.request(post("x")))[0] == 200
        status, headers, body = await (await another(client)).request(post("x"))
        assert (status, headers["connection"]) == (503, "close")
        assert json.loads(body)["error"]["code"] == "too_many_connections"
        assert (await client.request(post("x")))[0] == 200, "the others stay"

    run_scenario(echo, story)


def test_pipelined_requests_are_bounded() -> None:
    async def never(request: ServerRequest) -> None:
        gone = asyncio.Event()
        request.when_gone(gone.set)
        await gone.wait()

    async def story(client: Client) -> None:
        client.writer.write(post("x") * (LIMITS.pipelined + 2))
        assert await client.is_closed()

    run_scenario(never, story)


def test_a_connection_that_takes_too_long_is_ended_and_a_running_answer_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server_connection, "LINGER_S", 1.0)
    answering = asyncio.Event()

    async def slow(request: ServerRequest) -> None:
        if request.body == b"slow":
            await answering.wait()
        await echo(request)

    async def story(client: Client) -> None:
        slow_one, half_head, half_body, idle = [await another(client) for _ in range(4)]
        slow_one.writer.write(post("slow"))
        half_head.writer.write(post("x")[:20])
        half_body.writer.write(post("xxxx")[:-2])
        assert (await idle.request(post("x")))[0] == 200
        await until(lambda: len(client.server.connections) == 5 and client.server.busy == 1)
        at = client.server.now + LIMITS.stalled_s + 0.1
        for connection in list(client.server.connections):
            connection.check(at)
        for one in (half_head, half_body):
            assert (await one.answer())[0] == 408
        for connection in list(client.server.connections):
            connection.check(at + LIMITS.idle_s)
        assert await idle.is_closed()
        assert await half_head.is_closed()
        answering.set()
        assert (await slow_one.answer())[2] == b"POST /a b slow"

    run_scenario(slow, story, replace(LIMITS, connections=9))


def test_a_body_that_arrives_too_slowly_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(client: Client) -> None:
        raw = post("x" * 50)
        client.writer.write(raw[:-40])
        await until(lambda: len(client.server.connections) == 1)
        began = client.server.now
        for second in range(1, 8):
            client.server.now = began + second
            client.writer.write(b"x")
            await asyncio.sleep(0.01)
            for connection in list(client.server.connections):
                connection.check(client.server.now)
        assert (await client.answer())[0] == 408

    run_scenario(echo, story)


# the end


def test_a_server_that_closes_finishes_running_requests_and_accepts_none() -> None:
    may_end = asyncio.Event()

    async def slow(request: ServerRequest) -> None:
        await may_end.wait()
        await echo(request)

    async def story(client: Client) -> None:
        client.writer.write(post("x"))
        await until(lambda: client.server.busy == 1)
        closing = asyncio.create_task(client.server.close(5.0))
        await until(lambda: client.server.is_closing)
        may_end.set()
        status, headers, _ = await client.answer()
        assert (status, headers["connection"]) == (200, "close")
        await closing
        with pytest.raises(OSError, match="Connect call failed"):
            await another(client)

    run_scenario(slow, story)


def test_a_server_that_closes_waits_a_bounded_time() -> None:
    async def never(request: ServerRequest) -> None:
        await asyncio.Event().wait()

    async def story(client: Client) -> None:
        client.writer.write(post("x"))
        await until(lambda: client.server.busy == 1)
        await client.server.close(0.05)
        assert await client.is_closed()

    run_scenario(never, story)


def test_a_port_in_use_is_an_error_that_names_it() -> None:
    listener = bind("127.0.0.1", 0, "front door")
    with pytest.raises(ConfigurationError, match="the front door cannot listen on"):
        bind("127.0.0.1", listener.getsockname()[1], "front door")
    listener.close()
