"""A cheap engine: vLLM's form of chat and plain completions, without a model.

    python -m bench.engine HOST PORT

Every chunk of an answer is made once and kept. One timer makes a step for all streams together, as continuous batching
does, so a door gets its tokens in bursts of one for each stream. The first token comes at once: a real one waits for a
prefill, which would only blur what a door adds.

POST /pace {"seconds_per_token": 0.02} sets the time between steps.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import httptools
import orjson
import uvloop

SECONDS_PER_TOKEN = 0.02
DEFAULT_TOKENS = 16
_PROMPT_IDS = list(range(100, 132))
_CREATED = 1_700_000_000
_MODEL = "bench"
_CHAT, _COMPLETION = "/v1/chat/completions", "/v1/completions"
_BACKLOG = 4096


@lru_cache(maxsize=64)
def answer_parts(chat: bool, wants_ids: bool, tokens: int) -> tuple[bytes, ...]:
    """Return what to write for each token of a stream, as HTTP chunks: the head and the first token, ..., the end."""
    parts = [_frame(_token_event(chat, wants_ids, number, tokens)) for number in range(tokens)]
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
    parts[0] = head + (_frame(_role_event(wants_ids)) if chat else b"") + parts[0]
    parts[-1] += _frame(b"data: [DONE]\n\n") + b"0\r\n\r\n"
    return tuple(parts)


def _frame(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _role_event(wants_ids: bool) -> bytes:
    choice = {"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
    return _event(True, choice, {"prompt_token_ids": _PROMPT_IDS, "prompt_text": None} if wants_ids else {})


def _token_event(chat: bool, wants_ids: bool, number: int, tokens: int) -> bytes:
    """Return the event of one token. number: from 0."""
    last = number == tokens - 1
    text = f" word{number}"
    choice: dict[str, Any] = {"index": 0}
    choice |= {"delta": {"content": text}} if chat else {"text": text}
    choice |= {"logprobs": None, "finish_reason": "length" if last else None}
    if last or not chat:
        choice["stop_reason"] = None
    if wants_ids:
        if not chat:
            choice["prompt_token_ids"] = None if number else _PROMPT_IDS
        choice["token_ids"] = [1000 + number]
    return _event(chat, choice, {})


def _event(chat: bool, choice: Mapping[str, Any], extra: Mapping[str, Any]) -> bytes:
    name, id_ = ("chat.completion.chunk", "chatcmpl-") if chat else ("text_completion", "cmpl-")
    chunk = {"id": f"{id_}0123456789abcdef01234567", "object": name, "created": _CREATED, "model": _MODEL}
    return b"data: %b\n\n" % orjson.dumps({**chunk, "choices": [choice], **extra})


def whole_answer(chat: bool) -> bytes:
    """Return a small answer that is not streamed."""
    said = {"message": {"role": "assistant", "content": "four small words here"}} if chat else {"text": "four words"}
    choice = {"index": 0, **said, "logprobs": None, "finish_reason": "stop", "stop_reason": None}
    body = {
        "id": "chatcmpl-0123456789abcdef" if chat else "cmpl-0123456789abcdef",
        "object": "chat.completion" if chat else "text_completion",
        "created": _CREATED,
        "model": _MODEL,
        "choices": [choice],
        "usage": {"prompt_tokens": len(_PROMPT_IDS), "total_tokens": len(_PROMPT_IDS) + 4, "completion_tokens": 4},
    }
    return _response(orjson.dumps(body))


def _response(body: bytes, status: bytes = b"200 OK") -> bytes:
    head = b"HTTP/1.1 %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % (status, len(body))
    return head + body


_WHOLE = {True: whole_answer(True), False: whole_answer(False)}
_MODELS = _response(orjson.dumps({"object": "list", "data": [{"id": _MODEL, "object": "model", "owned_by": "vllm"}]}))
_FOUND = {"/v1/models": _MODELS, "/health": _response(b""), "/version": _response(b'{"version":"0.32.0"}')}
_NOT_FOUND = _response(b'{"detail":"Not Found"}', b"404 Not Found")


class StepTimer:
    """Calls every stream once a step."""

    def __init__(self) -> None:
        self.seconds_per_token = SECONDS_PER_TOKEN
        self.live: set[Connection] = set()
        self._loop = asyncio.get_running_loop()
        self._due = self._loop.time()
        self._step()

    def _step(self) -> None:
        for connection in list(self.live):
            connection.next_token()
        self._due = max(self._due + self.seconds_per_token, self._loop.time())  # behind: no steps in a row to catch up
        self._loop.call_at(self._due, self._step)


class Connection(asyncio.Protocol):
    """One connection with one request at a time, as all proxies use it. Callbacks are httptools'."""

    def __init__(self, steps: StepTimer) -> None:
        self._steps = steps
        self._parser = httptools.HttpRequestParser(self)
        self._target = b""
        self._body = b""
        self._parts: tuple[bytes, ...] = ()
        self._written = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport, to which answers are written."""
        self._transport: asyncio.Transport = transport  # type: ignore[assignment] # a server's connection has one

    def connection_lost(self, exc: Exception | None) -> None:
        """End the stream of this connection, if it has one."""
        self._steps.live.discard(self)

    def data_received(self, data: bytes) -> None:
        """Parse what has arrived; the parser calls the methods below."""
        self._parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        """Collect the request's target, which may arrive in pieces."""
        self._target += url

    def on_body(self, body: bytes) -> None:
        """Collect the request's body, which may arrive in pieces."""
        self._body += body

    def on_message_complete(self) -> None:
        """Answer the request: begin a stream, or write the whole answer at once."""
        path, body = self._target.decode().partition("?")[0], self._body
        self._target = self._body = b""
        if path in (_CHAT, _COMPLETION):
            self._generate(path == _CHAT, orjson.loads(body))
        elif path == "/pace":
            self._steps.seconds_per_token = float(orjson.loads(body)["seconds_per_token"])
            self._transport.write(_response(b"{}"))
        else:
            self._transport.write(_FOUND.get(path, _NOT_FOUND))

    def _generate(self, chat: bool, request: Mapping[str, Any]) -> None:
        if not request.get("stream"):
            self._transport.write(_WHOLE[chat])
            return
        tokens = int(request.get("max_tokens") or DEFAULT_TOKENS)
        self._parts = answer_parts(chat, bool(request.get("return_token_ids")), tokens)
        self._written = 0
        self._steps.live.add(self)
        self.next_token()

    def next_token(self) -> None:
        """Write the next part of the stream; after the last one the timer no longer calls this connection."""
        self._transport.write(self._parts[self._written])
        self._written += 1
        if self._written == len(self._parts):
            self._steps.live.discard(self)


async def serve(host: str, port: int) -> None:
    """Serve until cancelled or killed."""
    steps = StepTimer()
    server = await asyncio.get_running_loop().create_server(lambda: Connection(steps), host, port, backlog=_BACKLOG)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[1], int(sys.argv[2])))
