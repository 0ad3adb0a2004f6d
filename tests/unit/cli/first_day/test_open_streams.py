"""Streams over real connections: read whole, broken, refused, and closed from outside."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from cli.adapters.open_streams import Completions, OpenStreams
from cli.core.first_day.answers import Answer

EVENTS = [{"choices": [{"index": 0, "text": word, "finish_reason": None}]} for word in ("one ", "two ")]
END = {"choices": [{"index": 0, "text": "three", "finish_reason": "length"}]}


class Node(BaseHTTPRequestHandler):
    """A node's client API. answers: what it answers, by path; bodies: what it received."""

    bodies: list[Any]
    behaviour = "whole"
    release: threading.Event

    def do_GET(self) -> None:
        if self.path == "/v1/models":
            self._json(200, {"data": [{"id": "m", "max_model_len": 4096}]})
        else:
            self._json(404, {"error": {"message": "no such route"}})

    def do_POST(self) -> None:
        self.bodies.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
        if self.behaviour == "refused":
            self._json(400, {"error": {"message": "no such model"}})
            return
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("x-synkti-node", "i-0a")
        self.end_headers()
        for event in EVENTS:
            self._send(b"data: " + json.dumps(event).encode() + b"\n\n")
        if self.behaviour == "hangs":
            self.release.wait(20)
            return
        self._send(b"data: " + json.dumps(END).encode() + b"\n\ndata: [DONE]\n\n")

    def _send(self, data: bytes) -> None:
        self.wfile.write(data)
        self.wfile.flush()

    def _json(self, status: int, document: Any) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def node() -> Iterator[tuple[str, type[Node]]]:
    kind: type[Node] = type("OneNode", (Node,), {"bodies": [], "release": threading.Event()})
    server = ThreadingHTTPServer(("127.0.0.1", 0), kind)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", kind
    kind.release.set()
    server.shutdown()
    thread.join()
    server.server_close()


Served = tuple[str, type[Node]]


def test_an_answer_is_requested_greedy_and_of_a_fixed_length(node: Served) -> None:
    url, kind = node
    completions = Completions([url], "llama")
    answer = completions.answer(96)
    assert (answer.text, answer.node, answer.finish_reason, answer.error) == ("one two three", "i-0a", "length", None)
    (body,) = kind.bodies
    asserted = {"model": "llama", "max_tokens": 96, "temperature": 0, "ignore_eos": True, "stream": True}
    assert body.items() >= asserted.items()
    assert completions.context() == 4096
    completions.close()


def test_a_refusal_is_an_error_with_its_text(node: Served) -> None:
    url, kind = node
    kind.behaviour = "refused"
    completions = Completions([url], "llama")
    error = completions.answer(8).error
    assert error is not None
    assert error.startswith("400: ")
    assert "no such model" in error
    completions.close()


def test_streams_follow_one_another_until_they_are_stopped(node: Served) -> None:
    completions = Completions([node[0]], "llama")
    with OpenStreams(completions, 8) as streams:
        give_up_at = time.monotonic() + 20
        while len(streams.answers) < 3:
            assert time.monotonic() < give_up_at
            time.sleep(0.01)
        answers = streams.finish(20)
    assert len(answers) >= 3
    assert {answer.text for answer in answers} == {"one two three"}
    completions.close()


def test_a_stream_that_does_not_end_counts_as_broken_and_its_thread_ends(node: Served) -> None:
    url, kind = node
    kind.behaviour = "hangs"
    completions = Completions([url], "llama")
    with OpenStreams(completions, 8) as streams:
        give_up_at = time.monotonic() + 20
        while not kind.bodies:
            assert time.monotonic() < give_up_at
            time.sleep(0.01)
        (answer,) = streams.finish(0.1)
    assert answer == Answer("", error="it did not end within 0 s")
    kind.behaviour = "refused"
    completions.close()
    kind.release.set()
    streams._thread.join(20)
    assert not streams._thread.is_alive(), "and without an exception of its own, which pytest would report"
