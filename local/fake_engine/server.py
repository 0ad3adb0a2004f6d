"""The fake engine's routes, and how vLLM ends a stream.

* SIGTERM with `--shutdown-timeout 0`: chat streams end with an error chunk and `[DONE]`, plain ones with `[DONE]`,
  neither with a finish_reason; then the process ends.
* SIGTERM with a longer one: streams may finish, new requests get 500, /health stays 200; a stream that has not
  finished by then hangs with its socket open.
* a client that disconnects ends its request at once.
* a request with a text of `--on-text` fails, or ends the process (`triggers`).
* with `--faults`, `POST /standin/faults` replaces the faults of the next streams (`faults`); GET returns which of them
  wait and which were applied. `POST /standin/core` changes the engine's core while it runs (`core`): slow, stuck, short
  of blocks.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from typing import Any

import orjson

from local.fake_engine import model
from local.fake_engine.answers import (
    BadRequest,
    is_echo_only,
    read_chat_prompt,
    read_logprobs,
    read_n,
    read_prompts,
    read_sampling,
)
from local.fake_engine.asgi import (
    Receive,
    Scope,
    Send,
    check_content_type,
    read_body,
    request_id,
    respond,
    send_error,
    send_generation_error,
    send_json,
    start_stream,
    with_request_id,
)
from local.fake_engine.chunks import OpenAiFormatter
from local.fake_engine.config import Config
from local.fake_engine.events import MESSAGES, RESPONSES, event_formatter, to_chat_body
from local.fake_engine.faults import (
    read_faults,
)
from local.fake_engine.responder import CORE_DEAD, Responder, no_such_model
from local.fake_engine.triggers import (
    INTERNAL_ERROR,
    RequestFailure,
    VllmError,
    matching_failure,
)

VERSION = "0.32.0"
KEPT_IDS = 100
"""Of how many requests /metrics lists the ids, so that a test can count its own requests among the node's probes."""


class FakeVllm:
    """The ASGI application."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self.responder = Responder(config)
        self._core, self._faults = self.responder.core, self.responder.faults
        self._received: deque[str] = deque(maxlen=KEPT_IDS)  # of requests with a body, those that are refused included
        self._routes: dict[tuple[str, str], Callable[[Scope, Receive, Send, bytes], Awaitable[None]]] = {
            ("POST", "/v1/chat/completions"): self._complete,
            ("POST", "/v1/completions"): self._complete,
            ("POST", RESPONSES): self._complete_events,
            ("POST", MESSAGES): self._complete_events,
            ("POST", "/tokenize"): self._tokenize,
            ("POST", "/detokenize"): self._detokenize,
            ("GET", "/health"): self._health,
            ("GET", "/ping"): self._health,
            ("POST", "/ping"): self._health,
            ("GET", "/version"): self._version,
            ("GET", "/load"): self._load,
            ("GET", "/metrics"): self._metrics,
            ("GET", "/v1/models"): self._models,
        }
        if config.faults:
            self._routes["POST", "/standin/faults"] = self._replace_faults
            self._routes["GET", "/standin/faults"] = self._show_faults
            self._routes["POST", "/standin/core"] = self._change_core
            self._routes["GET", "/standin/core"] = self._show_core

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read one request and answer it; a client that disconnects before its body is complete gets no answer."""
        body = b""
        while True:
            event = await receive()
            if event["type"] == "http.disconnect":
                return
            body += event.get("body", b"")
            if not event.get("more_body"):
                break
        method, path, send = scope["method"], scope["path"], with_request_id(scope, send)
        if method == "POST":
            self._received.append(request_id(scope) or "")
        route = self._routes.get((method, path))
        if route is None:
            await self._route_error(send, method, path, scope.get("query_string", b""))
            return
        try:
            if method == "POST" and path.startswith(("/v1/", "/tok", "/detok")):
                check_content_type(scope)
            if (failure := matching_failure(self._config.triggers, body)) is not None and path.startswith("/v1/"):
                await self._apply_failure(scope, send, body, failure)
            else:
                await route(scope, receive, send, body)
        except BadRequest as bad:
            await send_error(
                send, bad.status, "NotFoundError" if bad.status == 404 else "Bad Request", str(bad), bad.param
            )

    async def _route_error(self, send: Send, method: str, path: str, query: bytes) -> None:
        allowed = [known for known, at in self._routes if at == path]
        shorter = path.rstrip("/")
        if allowed:
            await send_json(send, {"detail": "Method Not Allowed"}, 405, (b"allow", ", ".join(allowed).encode()))
        elif shorter != path and any(at == shorter for _, at in self._routes):
            await respond(send, 307, b"", b"", (b"location", shorter.encode() + (b"?" + query if query else b"")))
        else:
            await send_json(send, {"detail": "Not Found"}, 404)

    def _check_model(self, body: dict[str, Any]) -> None:
        if body.get("model") and body["model"] not in self._config.model_names:
            raise no_such_model(body["model"])

    async def _apply_failure(self, scope: Scope, send: Send, raw: bytes, failure: RequestFailure) -> None:
        """Fail as a trigger has it: with an error, or with the end of the process."""
        wants_stream = bool(read_body(raw).get("stream"))
        match failure:
            case RequestFailure.DIES | RequestFailure.KILLED:
                if wants_stream:
                    await start_stream(send)
                    await asyncio.sleep(0.01)  # for the head to leave
                if failure is RequestFailure.KILLED:
                    os.kill(os.getpid(), signal.SIGKILL)
                os._exit(134)
            case RequestFailure.CORE_DIES:
                self.responder.is_core_dead = True
                self.responder.terminating.set()
                await send_generation_error(
                    send, VllmError(500, "InternalServerError", CORE_DEAD), scope, stream=wants_stream
                )
            case RequestFailure.ERROR_500:
                await send_generation_error(send, INTERNAL_ERROR, scope, stream=wants_stream)
            case RequestFailure.ERROR_400:
                refused = VllmError(400, "BadRequestError", "this request is refused")
                await send_generation_error(send, refused, scope, stream=wants_stream)
            case RequestFailure.TEXT_500:
                await respond(send, 500, b"Internal Server Error", b"text/plain; charset=utf-8")
            case RequestFailure.EMPTY_500:
                await respond(send, 500, b"", b"text/plain")
            case RequestFailure.BUSY_503:
                message = "The engine is currently busy and cannot accept new requests."
                await send_error(send, 503, "Service Unavailable", message, None)
            case RequestFailure.BUSY_429:
                await send_error(send, 429, "Too Many Requests", "Too many requests.", None)

    async def _complete(self, scope: Scope, receive: Receive, send: Send, raw: bytes) -> None:
        chat = scope["path"].startswith("/v1/chat")
        body = read_body(raw)
        self._check_model(body)
        sampling = read_sampling(body, chat, has_plugin=self._config.has_plugin)
        await self.responder.respond(scope, receive, send, body, self._formatter(scope, body, chat), sampling)

    async def _complete_events(self, scope: Scope, receive: Receive, send: Send, raw: bytes) -> None:
        body, path = read_body(raw), scope["path"]
        self._check_model(body)
        asked = to_chat_body(path, body)
        (prompt,) = read_prompts(asked, True, self._config.max_model_len)
        exposes_token_ids = self._config.has_plugin and bool((asked.get("vllm_xargs") or {}).get("synkti_tell_ids"))
        form = event_formatter(path, self._config.model, int(time.time()), prompt, exposes_token_ids=exposes_token_ids)
        sampling = read_sampling(asked, True, has_plugin=self._config.has_plugin)
        await self.responder.respond(scope, receive, send, body, form, sampling)

    def _formatter(self, scope: Scope, body: dict[str, Any], chat: bool) -> OpenAiFormatter:
        options = body.get("stream_options") or {}
        return OpenAiFormatter(
            chat=chat,
            id=("chatcmpl-" if chat else "cmpl-") + (request_id(scope) or secrets.token_hex(8)),
            created=int(time.time()),
            model=self._config.model,
            prompts=tuple(map(tuple, read_prompts(body, chat, self._config.max_model_len))),
            n=read_n(body),
            echo=bool(body.get("echo")),
            echo_only=is_echo_only(body, chat),
            returns_token_ids=bool(body.get("return_token_ids")),
            logprobs=read_logprobs(body, chat),
            includes_usage=bool(options.get("include_usage")),
            continuous_usage=bool(options.get("include_usage") and options.get("continuous_usage_stats")),
        )

    async def _replace_faults(self, scope: Scope, receive: Receive, send: Send, raw: bytes) -> None:
        try:
            given = orjson.loads(raw)
        except orjson.JSONDecodeError as error:
            raise BadRequest(f"Faults are JSON: {error}.") from error
        self._faults.replace(read_faults(given))
        await send_json(send, self._faults.to_json())

    async def _show_faults(self, scope: Scope, receive: Receive, send: Send, raw: bytes) -> None:
        await send_json(send, self._faults.to_json())

    async def _change_core(self, scope: Scope, receive: Receive, send: Send, raw: bytes) -> None:
        try:
            self._core.apply(orjson.loads(raw))
        except orjson.JSONDecodeError as error:
            raise BadRequest(f"A core's changes are JSON: {error}.") from error
        await send_json(send, self._core.to_json())

    async def _show_core(self, scope: Scope, receive: Receive, send: Send, raw: bytes) -> None:
        await send_json(send, self._core.to_json())

    async def _tokenize(self, scope: Scope, receive: Receive, send: Send, raw: bytes) -> None:
        body = read_body(raw)
        messages = body.get("messages")
        ids = read_chat_prompt(messages) if messages else model.encode(str(body.get("prompt", "")))
        await send_json(send, {"count": len(ids), "max_model_len": self._config.max_model_len, "tokens": ids})

    async def _detokenize(self, scope: Scope, receive: Receive, send: Send, raw: bytes) -> None:
        await send_json(send, {"prompt": model.decode(read_body(raw).get("tokens", []))})

    async def _health(self, scope: Scope, receive: Receive, send: Send, raw: bytes) -> None:
        await respond(send, 503 if self.responder.is_core_dead else 200, b"", b"")

    async def _version(self, scope: Scope, receive: Receive, send: Send, raw: bytes) -> None:
        await send_json(send, {"version": VERSION})

    async def _load(self, scope: Scope, receive: Receive, send: Send, raw: bytes) -> None:
        await send_json(send, {"server_load": self.responder.active_requests})

    async def _metrics(self, scope: Scope, receive: Receive, send: Send, raw: bytes) -> None:
        label = f'{{engine="0",model_name="{self._config.model}"}}'
        core = self._core.stats()
        figures = {
            "num_requests_running": core.running,
            "num_requests_waiting": core.waiting,
            "kv_cache_usage_perc": 0,
            "num_preemptions_total": core.preemptions,
            "prompt_tokens_total": core.prompted,
            "generation_tokens_total": core.generated,
        }
        lines = [f"vllm:{name}{label} {float(value)}" for name, value in figures.items()]
        received = Counter(self._received).items()
        lines += [
            f"fake_engine_received_total{{request_id={orjson.dumps(given).decode()}}} {n}" for given, n in received
        ]
        await respond(send, 200, ("\n".join(lines) + "\n").encode(), b"text/plain; version=0.0.4; charset=utf-8")

    async def _models(self, scope: Scope, receive: Receive, send: Send, raw: bytes) -> None:
        card = {"object": "model", "created": int(time.time()), "owned_by": "vllm", "root": "/model", "parent": None}
        card["max_model_len"] = self._config.max_model_len
        await send_json(send, {"object": "list", "data": [{"id": name, **card} for name in self._config.model_names]})
