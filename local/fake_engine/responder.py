"""Generates answers and sends them, at the engine's pace, up to a fault or to the end of the process."""

from __future__ import annotations

import asyncio
import time
from typing import Any, Literal

from local.fake_engine.answers import BadRequest, SamplingParams, generate
from local.fake_engine.asgi import (
    Receive,
    Scope,
    Send,
    send_error,
    send_generation_error,
    send_json,
    start_stream,
    wait_for_disconnect,
)
from local.fake_engine.config import Config
from local.fake_engine.core import EngineCore
from local.fake_engine.faults import DONE, ERROR_RESPONSES, ConnectionEnd, Fault, FaultKind, FaultQueue
from local.fake_engine.streaming import AnyFormatter, stream_chunks
from local.fake_engine.triggers import generation_error

CORE_DEAD = "EngineCore encountered an issue. See stack trace (above) for the root cause."
_MAX_LATENESS_S = 1.0
"""How far a delayed stream may fall behind its pace and catch up afterwards."""

_PACE_CHECK_S = 0.25
"""How often an answer without a stream looks at the pace, which may change while it is generated."""

RESET = "standin.reset"
"""The ASGI extension that ends a connection with TCP RST."""


class Responder:
    """Sends the answers of all requests.

    terminating: set by SIGTERM, no new requests; drain_expired: set when the shutdown timeout is over; idle: set while
    no request is active; is_core_dead: behave as if the engine process behind the API server had ended.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self.core = EngineCore(config.seconds_per_token, config.max_num_seqs)
        self.faults = FaultQueue()
        self.active_requests = 0  # waiting ones included
        self._batch_slots = asyncio.Semaphore(config.max_num_seqs)
        self.idle = asyncio.Event()
        self.idle.set()
        self.terminating = asyncio.Event()
        self.drain_expired = asyncio.Event()
        self.is_core_dead = False

    async def respond(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        body: dict[str, Any],
        form: AnyFormatter,
        sampling: SamplingParams,
    ) -> None:
        """Generate the answer of one request and send it."""
        if self.terminating.is_set():
            await send_error(send, 500, "InternalServerError", CORE_DEAD, None)
            return
        if (fault := generation_error(body)) is not None:
            await send_generation_error(send, fault, scope, stream=bool(body.get("stream")))
            return
        self.active_requests += 1
        self.idle.clear()
        number = self.core.add_request(_prompt_tokens(form))
        try:
            async with self._batch_slots:
                if body.get("stream"):
                    await self._stream(scope, send, receive, form, sampling, number)
                else:
                    await self._send_body(send, receive, form, sampling, number)
        finally:
            self.core.finish_request(number)
            self.active_requests -= 1
            if not self.active_requests:
                self.idle.set()

    async def _send_body(
        self, send: Send, receive: Receive, form: AnyFormatter, sampling: SamplingParams, number: int
    ) -> None:
        max_model_len = self._config.max_model_len
        runs = [(prompt, sampling.for_choice(number)) for prompt in form.prompts for number in range(form.n)]
        made = [generate(prompt, each, max_model_len) for prompt, each in runs]
        longest = max(len(each.token_ids) for each in made) - len(sampling.resume_ids)
        gone = asyncio.create_task(wait_for_disconnect(receive))
        ended = asyncio.create_task(self._abort_event().wait())
        await self._generate_unseen(number, longest, (gone, ended))
        is_gone, is_ended = gone.done(), ended.done()
        gone.cancel()
        ended.cancel()
        if not is_gone and not is_ended:
            await send_json(send, form.body(made))
        elif not is_gone:
            await send_error(send, 500, "InternalServerError", CORE_DEAD, None)

    async def _generate_unseen(self, number: int, tokens: int, ends: tuple[asyncio.Task[Any], ...]) -> None:
        """Wait until a request has `tokens` that nobody reads one by one, at the core's pace of each moment."""
        while tokens > 0 and not any(end.done() for end in ends):
            pace = self.core.seconds_per_token
            few = min(tokens, max(1, int(_PACE_CHECK_S / pace))) if pace else tokens
            await self.core.step(number, few * pace, ends, few)
            tokens -= few

    def _abort_event(self) -> asyncio.Event:
        return self.terminating if self._config.shutdown_timeout_s <= 0 else self.drain_expired

    async def _stream(
        self, scope: Scope, send: Send, receive: Receive, form: AnyFormatter, sampling: SamplingParams, number: int
    ) -> None:
        fault = self.faults.pop(scope["path"])
        if fault is not None and fault.kind in ERROR_RESPONSES:
            self.faults.record(fault, time.time())
            if fault.kind is FaultKind.WRONG_MODEL:
                raise no_such_model(self._config.model)
            await send_error(send, 500, "InternalServerError", CORE_DEAD, None)
            return
        await start_stream(send)
        gone = asyncio.create_task(wait_for_disconnect(receive))
        try:
            ending = await self._send_until_end(send, gone, form, sampling, fault, number)
            if ending is None or fault is None:
                return
            self.faults.record(fault, time.time())
            if ending is ConnectionEnd.CLEAN:
                await send({"type": "http.response.body", "body": b""})
            elif ending is ConnectionEnd.RESET:
                scope["extensions"][RESET]()
            else:
                await gone
        finally:
            gone.cancel()

    async def _send_until_end(
        self,
        send: Send,
        gone: asyncio.Task[None],
        form: AnyFormatter,
        sampling: SamplingParams,
        fault: Fault | None,
        number: int,
    ) -> ConnectionEnd | None:
        """Send chunks until the answer ends or up to a fault; return how the connection then ends."""
        end = asyncio.create_task(self._abort_event().wait())
        try:
            return await self._send_chunks(send, (gone, end), form, sampling, fault, number)
        finally:
            end.cancel()

    async def _send_chunks(
        self,
        send: Send,
        ends: tuple[asyncio.Task[None], asyncio.Task[Literal[True]]],
        form: AnyFormatter,
        sampling: SamplingParams,
        fault: Fault | None,
        number: int,
    ) -> ConnectionEnd | None:
        (gone, end), generated = ends, 0
        due = time.monotonic()
        for chunk in stream_chunks(form, sampling, self._config.max_model_len, fault):
            if isinstance(chunk, ConnectionEnd):
                return chunk  # the fault counts as applied even if the client is gone
            pace = self.core.seconds_per_token + self._config.seconds_per_request * (self.active_requests - 1)
            due = max(due, time.monotonic() - _MAX_LATENESS_S) + pace / form.choice_count
            await self.core.step(number, due - time.monotonic(), ends, chunk.tokens)
            if gone.done():
                return None
            if end.done():
                await self._send_truncated_end(send, gone, form)
                return None
            await send({"type": "http.response.body", "body": chunk.data, "more_body": True})
            generated += chunk.tokens
        await send({"type": "http.response.body", "body": form.stream_end(generated)})
        return None

    async def _send_truncated_end(self, send: Send, gone: asyncio.Task[None], form: AnyFormatter) -> None:
        if self._config.shutdown_timeout_s > 0:
            await gone  # hangs with its socket open, as vLLM does once its drain timeout is over
            return
        last = form.error_payloads().error + DONE if self.is_core_dead else form.truncated_end()
        await send({"type": "http.response.body", "body": last})


def _prompt_tokens(form: AnyFormatter) -> int:
    return sum(len(prompt) for prompt in form.prompts)


def no_such_model(name: object) -> BadRequest:
    """Return vLLM's error for a model that is not served, to be raised: 404."""
    return BadRequest(f"The model `{name}` does not exist.", "model", 404)
