"""What an engine tells of the ids behind its words, where no route of its own does. Imports nothing of vLLM's.

A stream of /v1/responses or /v1/messages has no token ids in it, nor has a chat that hides its reasoning, and without
them nobody can go on with it elsewhere. Asked to (`arguments.TELL_IDS`), the engine adds events of its own to any
stream, each in front of the first chunk that followed from what it says:

    event: synkti-prompt    data: "<SHA-256, in hex, of the prompt's ids as little-endian uint32>", or null
    event: synkti-ids       data: [12,345]
    event: synkti-finish    data: "stop"

Rules kept here:

* the prompt comes first, once for each generation: there are several only where the engine itself calls tools, one
  after another. null where the prompt had no ids (embeddings);
* all ids that caused a chunk are told before it, each once, in their order; the ids that a request goes on behind too;
* ids that no chunk follows (a parser keeps them to itself, or hides them) are told before the next ones are waited for:
  a thought of a thousand hidden tokens is no silence, and can be gone on with from its middle;
* why a generation ended is told before the events that end the answer: vLLM calls an aborted response completed;
* events go between whole events, never into one;
* what is noted belongs to one HTTP request: a context variable leads to it, which the tasks that vLLM makes for a
  request inherit, and no other request sees;
* a request that does not ask is only looked through: nothing is noted, and no byte of its answer differs.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import AsyncGenerator, Awaitable, Callable, MutableMapping, Sequence
from contextlib import aclosing
from contextvars import ContextVar
from typing import Any

from synkti_engine.arguments import BadArguments

PROMPT_EVENT = "synkti-prompt"
IDS_EVENT = "synkti-ids"
FINISH_EVENT = "synkti-finish"

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]


def prompt_digest(ids: Sequence[int]) -> str:
    """By which a reader knows that two engines made the same prompt of one request."""
    return hashlib.sha256(struct.pack(f"<{len(ids)}I", *ids)).hexdigest()


def _event(name: str, data: Any) -> bytes:
    return f"event: {name}\ndata: {json.dumps(data, separators=(',', ':'))}\n\n".encode()


class TokenIdEmitter:
    """What one request's reader has not been told yet; no more than one answer's ids. push: tells it by itself."""

    def __init__(self, push: Callable[[], Awaitable[None]]) -> None:
        self.push = push
        self._running = False
        self._events: list[bytes] = []
        self._ids: list[int] = []

    def begin(self, choices: int) -> None:
        """A generation begins. Raises BadArguments where nobody could tell the ids of several apart."""
        if choices != 1:
            raise BadArguments(f"the ids of one choice can be told, and the request has n={choices}")
        if self._running:
            raise BadArguments("the ids of one answer can be told, and the request has several prompts")
        self._running = True

    def end(self) -> None:
        self._running = False

    def note_prompt(self, ids: Sequence[int] | None) -> None:
        self._flush()
        self._events.append(_event(PROMPT_EVENT, None if ids is None else prompt_digest(ids)))

    def note(self, ids: Sequence[int]) -> None:
        self._ids.extend(ids)

    def note_finish(self, reason: str) -> None:
        self._flush()
        self._events.append(_event(FINISH_EVENT, reason))

    def take(self) -> bytes:
        """The events that are due, b"" for none."""
        if not self._ids and not self._events:
            return b""
        self._flush()
        taken = b"".join(self._events)
        self._events.clear()
        return taken

    def _flush(self) -> None:
        if self._ids:
            self._events.append(_event(IDS_EVENT, self._ids))
            self._ids = []


current_emitter: ContextVar[TokenIdEmitter | None] = ContextVar("synkti_telling", default=None)
"""Of the HTTP request that the running task serves; None outside of one."""


def emit_for(
    outputs: AsyncGenerator[Any, None], telling: TokenIdEmitter, *, choices: int, cumulative: bool
) -> AsyncGenerator[Any, None]:
    """The outputs of a generation, each noted before it is handed on. cumulative: each tells all ids so far.

    Raises BadArguments at once, not when it is first iterated: the answer can still become a 400 then.
    """
    telling.begin(choices)
    return _followed(outputs, telling, cumulative)


async def _followed(
    outputs: AsyncGenerator[Any, None], telling: TokenIdEmitter, cumulative: bool
) -> AsyncGenerator[Any, None]:
    told = 0
    is_first = True
    try:
        async with aclosing(outputs):
            async for output in outputs:
                if is_first:
                    telling.note_prompt(output.prompt_token_ids)
                    is_first = False
                for choice in output.outputs[:1]:
                    telling.note(choice.token_ids[told:])
                    told = len(choice.token_ids) if cumulative else 0
                    if choice.finish_reason is not None:
                        telling.note_finish(choice.finish_reason)
                yield output
                await telling.push()
    finally:
        telling.end()


class TokenIdMiddleware:
    """Puts what is noted between the events of an answer. A pure ASGI application: no task or queue is between."""

    def __init__(self, app: App) -> None:
        self.app = app

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await self.app(scope, receive, send)
            return
        between = _Between(send)
        before = current_emitter.set(between.telling)
        try:
            await self.app(scope, receive, between)
        finally:
            current_emitter.reset(before)


class _Between:
    """The `send` of one request. open: its answer is a stream that goes on; tail: its last two bytes so far."""

    def __init__(self, send: Send) -> None:
        self.telling = TokenIdEmitter(self._push)
        self._send = send
        self._open = False
        self._tail = b""

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._open = _is_event_stream(message.get("headers", ()))
        elif self._open and message["type"] == "http.response.body":
            self._tell(message)
        await self._send(message)

    def _tell(self, message: Message) -> None:
        body = message.get("body", b"")
        if self._is_whole() and (due := self.telling.take()):
            message["body"] = due + body
        self._tail = (self._tail + body[-2:])[-2:]
        self._open = bool(message.get("more_body"))

    async def _push(self) -> None:
        if self._open and self._is_whole() and (due := self.telling.take()):
            await self._send({"type": "http.response.body", "body": due, "more_body": True})

    def _is_whole(self) -> bool:
        """Whether no event has begun and not ended."""
        return self._tail in (b"", b"\n\n")


def _is_event_stream(headers: Sequence[tuple[bytes, bytes]]) -> bool:
    return any(name.lower() == b"content-type" and value.startswith(b"text/event-stream") for name, value in headers)


class TokenIdEndpoint:
    """What vLLM calls an endpoint plug-in; this one has no endpoint, and adds the middleware to the server's app."""

    name = "synkti"
    required_tasks = None

    def attach_router(self, app: Any) -> None:
        app.add_middleware(TokenIdMiddleware)

    async def init_state(self, engine_client: Any, state: Any, args: Any) -> None:
        """Nothing of it is in the app's state."""
