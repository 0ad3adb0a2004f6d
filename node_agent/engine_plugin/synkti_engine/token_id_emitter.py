"""Emit the token ids behind a stream's text, where no route of the engine does. Imports nothing of vLLM.

A stream of /v1/responses or /v1/messages has no token ids in it, nor has a chat that hides its reasoning, and without
them no other engine can continue it. On request (`arguments.EMIT_IDS`), the engine adds events of its own to any
stream, each in front of the first chunk that followed from its content:

    event: synkti-prompt    data: "<SHA-256, in hex, of the prompt's ids as little-endian uint32>", or null
    event: synkti-ids       data: [12,345]
    event: synkti-finish    data: "stop"

Rules kept here:

* the prompt comes first, once for each generation: there are several only where the engine itself calls tools, one
  after another. null where the prompt had no ids (embeddings);
* all ids that caused a chunk are sent before it, each once, in order; so are the ids that a request resumes behind;
* ids that no chunk follows (a parser buffers or hides them) are sent before the next ones are awaited: a thought of a
  thousand hidden tokens is no silence, and can be continued from its middle;
* the reason that a generation ended is sent before the events that end the answer: vLLM calls an aborted response
  completed;
* events go between whole events, never into one;
* recorded ids belong to one HTTP request: a context variable leads to them, which the tasks that vLLM makes for a
  request inherit, and no other request sees;
* a request without the argument passes unchanged: nothing is recorded, and no byte of its answer differs.
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
    """Return the digest by which a reader verifies that two engines made the same prompt of one request."""
    return hashlib.sha256(struct.pack(f"<{len(ids)}I", *ids)).hexdigest()


def _event(name: str, data: Any) -> bytes:
    return f"event: {name}\ndata: {json.dumps(data, separators=(',', ':'))}\n\n".encode()


class TokenIdEmitter:
    """Collects what one request's reader has not received yet, at most one answer's ids. push: sends it at once."""

    def __init__(self, push: Callable[[], Awaitable[None]]) -> None:
        self.push = push
        self._running = False
        self._events: list[bytes] = []
        self._ids: list[int] = []

    def begin(self, choices: int) -> None:
        """Begin a generation. Raises BadArguments where the ids of several could not be distinguished."""
        if choices != 1:
            raise BadArguments(f"the ids of one choice can be sent, and the request has n={choices}")
        if self._running:
            raise BadArguments("the ids of one answer can be sent, and the request has several prompts")
        self._running = True

    def end(self) -> None:
        """End the generation; the engine may begin another one for the same request."""
        self._running = False

    def record_prompt(self, ids: Sequence[int] | None) -> None:
        """Record a prompt by the digest of its ids. ids: None where it has none."""
        self._flush()
        self._events.append(_event(PROMPT_EVENT, None if ids is None else prompt_digest(ids)))

    def record(self, ids: Sequence[int]) -> None:
        """Record ids of the answer, in order; those that are taken together share one event."""
        self._ids.extend(ids)

    def record_finish(self, reason: str) -> None:
        """Record why the generation ended, behind its ids. reason: vLLM's finish reason."""
        self._flush()
        self._events.append(_event(FINISH_EVENT, reason))

    def take(self) -> bytes:
        """Remove and return the pending events, b"" for none."""
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
"""The emitter of the HTTP request that the running task serves; None outside of one."""


def emit_for(
    outputs: AsyncGenerator[Any, None], emitter: TokenIdEmitter, *, choices: int, cumulative: bool
) -> AsyncGenerator[Any, None]:
    """Return an iterator over the outputs of a generation that records each one first.

    cumulative: each output carries all ids so far.

    Raises BadArguments at once, not at the first iteration: the answer can still become a 400 then.
    """
    emitter.begin(choices)
    return _emitting(outputs, emitter, cumulative)


async def _emitting(
    outputs: AsyncGenerator[Any, None], emitter: TokenIdEmitter, cumulative: bool
) -> AsyncGenerator[Any, None]:
    sent = 0
    is_first = True
    try:
        async with aclosing(outputs):
            async for output in outputs:
                if is_first:
                    emitter.record_prompt(output.prompt_token_ids)
                    is_first = False
                for choice in output.outputs[:1]:
                    emitter.record(choice.token_ids[sent:])
                    sent = len(choice.token_ids) if cumulative else 0
                    if choice.finish_reason is not None:
                        emitter.record_finish(choice.finish_reason)
                yield output
                await emitter.push()
    finally:
        emitter.end()


class TokenIdMiddleware:
    """Inserts recorded ids between the events of an answer. A pure ASGI application, without a task or queue."""

    def __init__(self, app: App) -> None:
        self.app = app

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Serve a request; a POST has an emitter of its own while the application runs."""
        if scope["type"] != "http" or scope["method"] != "POST":
            await self.app(scope, receive, send)
            return
        sender = _EventSender(send)
        before = current_emitter.set(sender.emitter)
        try:
            await self.app(scope, receive, sender)
        finally:
            current_emitter.reset(before)


class _EventSender:
    """The `send` of one request. `_open`: its answer is an unfinished stream; `_tail`: its last two bytes so far."""

    def __init__(self, send: Send) -> None:
        self.emitter = TokenIdEmitter(self._push)
        self._send = send
        self._open = False
        self._tail = b""

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._open = _is_event_stream(message.get("headers", ()))
        elif self._open and message["type"] == "http.response.body":
            self._prepend(message)
        await self._send(message)

    def _prepend(self, message: Message) -> None:
        body = message.get("body", b"")
        if self._is_whole() and (events := self.emitter.take()):
            message["body"] = events + body
        self._tail = (self._tail + body[-2:])[-2:]
        self._open = bool(message.get("more_body"))

    async def _push(self) -> None:
        if self._open and self._is_whole() and (events := self.emitter.take()):
            await self._send({"type": "http.response.body", "body": events, "more_body": True})

    def _is_whole(self) -> bool:
        """Return whether the bytes sent so far end with a whole event."""
        return self._tail in (b"", b"\n\n")


def _is_event_stream(headers: Sequence[tuple[bytes, bytes]]) -> bool:
    return any(name.lower() == b"content-type" and value.startswith(b"text/event-stream") for name, value in headers)


class TokenIdEndpoint:
    """An endpoint plug-in in vLLM's sense; it has no endpoint, and adds the middleware to the server's app."""

    name = "synkti"
    required_tasks = None

    def attach_router(self, app: Any) -> None:
        """Add the middleware to the server's app; Starlette raises RuntimeError once that has started."""
        app.add_middleware(TokenIdMiddleware)

    async def init_state(self, engine_client: Any, state: Any, args: Any) -> None:
        """Do nothing: the app's state holds nothing of this plug-in."""
