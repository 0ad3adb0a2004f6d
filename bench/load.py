"""Cheap clients of one proxy: C connections that send requests repeatedly, and their latencies.

    python -m bench.load HOST PORT --streams 64 --each 2 --tokens 64 --spread 1.28 --pid 4711
    python -m bench.load HOST PORT --whole --streams 8 --each 500 --pid 4711
    python -m bench.load HOST PORT --streams 1000 --tokens 1024 --spread 2 --hold 16 --pid 4711

Prints one line of JSON. --pid: the door's process, whose CPU time is read right before and after the work. --spread:
seconds over which the clients begin, so that they do not all begin (and end) at one moment. --hold: print once every
stream has so many tokens, and keep all of them open until this process is ended.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from array import array
from dataclasses import dataclass, field
from typing import Any

import httptools
import orjson
import uvloop

from bench.figures import quantile
from bench.proc import cpu_s

_PATH = "/v1/chat/completions"
_MARK = b"data: "
_DONE = b"data: [DONE]\n\n"
_QUESTION = "What does a door in front of an engine cost? " * 9
_FIRST_EVEN = 3
"""The first event whose distance to the one before it is the engine's pace: the role and the first token come together
and at once, the second token with the next step, whenever that is."""


def request_bytes(host: str, *, streaming: bool, tokens: int) -> bytes:
    """Return a chat request as HTTP/1.1 bytes. tokens: the request's max_tokens."""
    body = orjson.dumps(
        {
            "model": "bench",
            "stream": streaming,
            "max_tokens": tokens,
            "messages": [{"role": "user", "content": _QUESTION}],
        }
    )
    head = f"POST {_PATH} HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
    return head.encode() + b"\r\n" + body


@dataclass
class Latencies:
    """Latencies of all clients, in seconds. first_s: to the first event of each answer; gap_s: between tokens."""

    first_s: array[float] = field(default_factory=lambda: array("d"))
    gap_s: array[float] = field(default_factory=lambda: array("d"))
    answers: int = 0
    failed: int = 0


class Client(asyncio.Protocol):
    """One connection; `ask` it again and again. tokens: of each streamed answer, 0 for whole ones.

    Callbacks are httptools'.
    """

    def __init__(self, waits: Latencies, tokens: int) -> None:
        self.events = 0
        self._waits = waits
        self._tokens = tokens
        self._carry = b""
        self._now = self._asked_at = self._last_at = 0.0
        self._answer: asyncio.Future[None] | None = None
        self._reached: tuple[int, asyncio.Future[None]] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport, to which requests are written."""
        self._transport: asyncio.Transport = transport  # type: ignore[assignment] # create_connection gives one

    def connection_lost(self, exc: Exception | None) -> None:
        """Count the current answer as failed, if it is not complete."""
        if self._answer is not None and not self._answer.done():
            self._finish(False)

    async def send_request(self, request: bytes) -> None:
        """Send one request and read its whole answer."""
        self._parser = httptools.HttpResponseParser(self)
        self.events, self._carry = 0, b""
        self._answer = asyncio.get_running_loop().create_future()
        self._asked_at = self._last_at = time.perf_counter()
        self._transport.write(request)
        await self._answer

    async def wait_for_events(self, events: int) -> None:
        """Wait until the current answer has so many events."""
        self._reached = (events, asyncio.get_running_loop().create_future())
        await self._reached[1]

    def close(self) -> None:
        """Close the connection."""
        self._transport.close()

    def data_received(self, data: bytes) -> None:
        """Parse what has arrived, all of it at one time of arrival; the parser calls the methods below."""
        self._now = time.perf_counter()
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        """Count the events in a piece of the body and record their latencies; a piece may end within an event."""
        seen = self._carry + body
        arrived = seen.count(_MARK) - self._carry.count(_MARK)
        self._carry = seen[-len(_DONE) :]
        if not self._tokens or not arrived:
            return
        if not self.events:
            self._waits.first_s.append(self._now - self._asked_at)
        for event in range(self.events, self.events + arrived):
            if _FIRST_EVEN <= event <= self._tokens:
                self._waits.gap_s.append(self._now - self._last_at)
            self._last_at = self._now
        self.events += arrived
        if self._reached is not None and self.events >= self._reached[0] and not self._reached[1].done():
            self._reached[1].set_result(None)

    def on_message_complete(self) -> None:
        """Count the answer: it failed without status 200, a token or the end of the stream."""
        if not self._tokens:
            self._waits.first_s.append(self._now - self._asked_at)
        # An answer is complete with the role, every token and [DONE].
        whole = not self._tokens or (self.events == self._tokens + 2 and self._carry == _DONE)
        self._finish(whole and self._parser.get_status_code() == 200)

    def _finish(self, well: bool) -> None:
        self._waits.answers += well
        self._waits.failed += not well
        if self._answer is not None:
            self._answer.set_result(None)


async def connect(host: str, port: int, waits: Latencies, tokens: int) -> Client:
    """Open a connection to the proxy. tokens: as for Client. Raises OSError."""
    _, client = await asyncio.get_running_loop().create_connection(lambda: Client(waits, tokens), host, port)
    return client


async def run_clients(given: argparse.Namespace) -> dict[str, Any]:
    """Run all clients to their ends; return the fields of the line of JSON."""
    waits, tokens = Latencies(), 0 if given.whole else given.tokens
    request = request_bytes(given.host, streaming=not given.whole, tokens=given.tokens)

    async def client(number: int) -> None:
        await asyncio.sleep(given.spread * number / given.streams)
        connection = await connect(given.host, given.port, waits, tokens)
        for _ in range(given.each):
            await connection.send_request(request)
        connection.close()

    before, began = cpu_s(given.pid), time.perf_counter()
    await asyncio.gather(*(client(number) for number in range(given.streams)))
    return {
        "cpu_s": cpu_s(given.pid) - before,
        "seconds": time.perf_counter() - began,
        "units": waits.answers * (tokens or 1),
        "failed": waits.failed,
        "first_s": [quantile(waits.first_s, 0.5), quantile(waits.first_s, 0.99)],
        "gap_s": [quantile(waits.gap_s, 0.5), quantile(waits.gap_s, 0.99)] if tokens else [],
    }


async def hold_streams(given: argparse.Namespace) -> None:
    """Hold open streams until this process is ended."""
    waits, request = Latencies(), request_bytes(given.host, streaming=True, tokens=given.tokens)

    async def client(number: int) -> asyncio.Future[None]:
        await asyncio.sleep(given.spread * number / given.streams)
        connection = await connect(given.host, given.port, waits, given.tokens)
        asking = asyncio.ensure_future(connection.send_request(request))
        reached = asyncio.ensure_future(connection.wait_for_events(given.hold + 1))
        await asyncio.wait({asking, reached}, return_when=asyncio.FIRST_COMPLETED)
        return asking

    streams = await asyncio.gather(*(client(number) for number in range(given.streams)))
    print(orjson.dumps({"live": sum(not stream.done() for stream in streams)}).decode(), flush=True)
    await asyncio.Event().wait()


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.load")
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    parser.add_argument("--pid", type=int, required=True)
    parser.add_argument("--streams", type=int, required=True, help="clients at once")
    parser.add_argument("--each", type=int, default=1, help="requests of each, one after the other")
    parser.add_argument("--tokens", type=int, default=64, help="of each answer")
    parser.add_argument("--spread", type=float, default=0.0, help="seconds over which they begin")
    parser.add_argument("--whole", action="store_true", help="answers in one piece")
    parser.add_argument("--hold", type=int, default=0, help="keep all open once each has so many tokens")
    return parser.parse_args()


async def main() -> None:
    """Run the clients that the command line describes, and print the line of JSON."""
    given = arguments()
    if given.hold:
        await hold_streams(given)
    else:
        print(orjson.dumps(await run_clients(given)).decode(), flush=True)


if __name__ == "__main__":
    uvloop.run(main())
