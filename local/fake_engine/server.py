"""The stand-in's routes, its pace, and vLLM's ways to end a stream.

* SIGTERM with `--shutdown-timeout 0`: chat streams end with an error chunk and `[DONE]`, plain ones with `[DONE]`,
  neither with a finish_reason; then the process ends.
* SIGTERM with a longer one: streams may finish, new requests get 500, /health stays 200; what has not finished by
  then hangs with its socket open.
* a client that goes away ends its request at once.
* a request with a text of `--on-text` fails, or ends the process (`triggers`).
* with `--faults`, `POST /standin/faults` takes a list of losses for the streams to come (`faults`), in place of all
  told before; GET tells which of them wait and which happened. `POST /standin/core` changes the engine's core while it
  runs (`core`): slow, stuck, short of blocks.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import secrets
import signal
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, MutableMapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import orjson

from local.fake_engine import model
from local.fake_engine.answers import (
    BadRequest,
    SamplingParams,
    Step,
    generate,
    generate_steps,
    is_echo_only,
    read_logprobs,
    read_n,
    read_prompts,
    read_sampling,
)
from local.fake_engine.chunks import OpenAiFormatter
from local.fake_engine.core import EngineCore
from local.fake_engine.events import MESSAGES, RESPONSES, EventFormatter, event_formatter, to_chat_body
from local.fake_engine.faults import (
    DONE,
    ERROR_RESPONSES,
    Chunk,
    ConnectionEnd,
    Fault,
    FaultKind,
    FaultQueue,
    inject_fault,
    read_faults,
)
from local.fake_engine.triggers import INTERNAL_ERROR, RequestFailure, Trigger, generation_error, matching_failure
from local.fake_engine.triggers import VllmError as OwnFault
from node_agent.core.common.lax_values import read_bool, read_float, read_int

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

AnyFormatter = OpenAiFormatter | EventFormatter

VERSION = "0.32.0"
CORE_DEAD = "EngineCore encountered an issue. See stack trace (above) for the root cause."
_MAX_LATENESS_S = 1.0
"""How far a stream that was held up may fall behind its pace, and make up for it afterwards."""

RESET = "standin.reset"
"""The ASGI extension that ends a connection with TCP RST."""


@dataclass(frozen=True)
class Config:
    """seconds_per_token: the pace; shutdown_timeout_s: as vLLM's --shutdown-timeout; faults: whether to take them.

    seconds_per_request: how much longer a token takes for each request under way, as a batch of many does.
    max_num_seqs: as vLLM's: requests that are generated at once, all others wait; plugged: whether it has the plug-in,
    and can resume; triggers: requests that it fails at; also_named: further names of the model.
    """

    model: str
    seconds_per_token: float = 0.02
    max_model_len: int = 4096
    shutdown_timeout_s: float = 0.0
    faults: bool = False
    max_num_seqs: int = 1_024
    has_plugin: bool = False
    seconds_per_request: float = 0.0
    triggers: tuple[Trigger, ...] = ()
    also_named: tuple[str, ...] = ()

    @property
    def model_names(self) -> tuple[str, ...]:
        return (self.model, *self.also_named)


class FakeVllm:
    """The ASGI application."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self.active_requests = 0  # requests under way, those that wait included
        self._batch_slots = asyncio.Semaphore(config.max_num_seqs)
        self._core = EngineCore(config.seconds_per_token, config.max_num_seqs)
        self.idle = asyncio.Event()
        self.idle.set()
        self.terminating = asyncio.Event()  # SIGTERM came: no new requests
        self._is_core_dead = False  # as if the engine process behind the API server had ended
        self.drain_expired = asyncio.Event()  # the shutdown timeout is over
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
        self._faults = FaultQueue()
        if config.faults:
            self._routes["POST", "/standin/faults"] = self._replace_faults
            self._routes["GET", "/standin/faults"] = self._show_faults
            self._routes["POST", "/standin/core"] = self._change_core
            self._routes["GET", "/standin/core"] = self._show_core

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = b""
        while True:
            event = await receive()
            if event["type"] == "http.disconnect":
                return
            body += event.get("body", b"")
            if not event.get("more_body"):
                break
        method, path, send = scope["method"], scope["path"], _with_request_id(scope, send)
        route = self._routes.get((method, path))
        if route is None:
            await self._route_error(send, method, path, scope.get("query_string", b""))
            return
        try:
            if method == "POST" and path.startswith(("/v1/", "/tok", "/detok")):
                _check_content_type(scope)
            if (what := matching_failure(self._config.triggers, body)) is not None and path.startswith("/v1/"):
                await self._apply_failure(scope, send, body, what)
            else:
                await route(scope, receive, send, body)
        except BadRequest as bad:
            await _error(send, bad.status, "NotFoundError" if bad.status == 404 else "Bad Request", str(bad), bad.param)

    async def _route_error(self, send: Send, method: str, path: str, query: bytes) -> None:
        allowed = [known for known, at in self._routes if at == path]
        shorter = path.rstrip("/")
        if allowed:
            await _json(send, {"detail": "Method Not Allowed"}, 405, (b"allow", ", ".join(allowed).encode()))
        elif shorter != path and any(at == shorter for _, at in self._routes):
            await _respond(send, 307, b"", b"", (b"location", shorter.encode() + (b"?" + query if query else b"")))
        else:
            await _json(send, {"detail": "Not Found"}, 404)

    def _check_model(self, body: dict[str, Any]) -> None:
        if body.get("model") and body["model"] not in self._config.model_names:
            raise _no_such_model(body["model"])

    async def _apply_failure(self, scope: Scope, send: Send, raw: bytes, what: RequestFailure) -> None:
        """What a request does to an engine, or an engine to it."""
        wants_stream = bool(_read(raw).get("stream"))
        match what:
            case RequestFailure.DIES | RequestFailure.KILLED:
                if wants_stream:
                    await _start_stream(send)
                    await asyncio.sleep(0.01)  # for the head to leave
                if what is RequestFailure.KILLED:
                    os.kill(os.getpid(), signal.SIGKILL)
                os._exit(134)
            case RequestFailure.CORE_DIES:
                self._is_core_dead = True
                self.terminating.set()
                await _generation_error(
                    send, OwnFault(500, "InternalServerError", CORE_DEAD), scope, stream=wants_stream
                )
            case RequestFailure.ERROR_500:
                await _generation_error(send, INTERNAL_ERROR, scope, stream=wants_stream)
            case RequestFailure.ERROR_400:
                refused = OwnFault(400, "BadRequestError", "this request is refused")
                await _generation_error(send, refused, scope, stream=wants_stream)
            case RequestFailure.TEXT_500:
                await _respond(send, 500, b"Internal Server Error", b"text/plain; charset=utf-8")
            case RequestFailure.EMPTY_500:
                await _respond(send, 500, b"", b"text/plain")
            case RequestFailure.BUSY_503:
                message = "The engine is currently busy and cannot accept new requests."
                await _error(send, 503, "Service Unavailable", message, None)
            case RequestFailure.BUSY_429:
                await _error(send, 429, "Too Many Requests", "Too many requests.", None)

    # completions

    async def _complete(self, scope: Scope, receive: Receive, send: Send, raw: bytes) -> None:
        chat = scope["path"].startswith("/v1/chat")
        body = _read(raw)
        self._check_model(body)
        sampling = read_sampling(body, chat, plugged=self._config.has_plugin)
        await self._generate_response(scope, receive, send, body, self._formatter(scope, body, chat), sampling)

    async def _complete_events(self, scope: Scope, receive: Receive, send: Send, raw: bytes) -> None:
        body, path = _read(raw), scope["path"]
        self._check_model(body)
        asked = to_chat_body(path, body)
        (prompt,) = read_prompts(asked, True, self._config.max_model_len)
        tells_ids = self._config.has_plugin and bool((asked.get("vllm_xargs") or {}).get("synkti_tell_ids"))
        form = event_formatter(path, self._config.model, int(time.time()), prompt, tells_ids=tells_ids)
        sampling = read_sampling(asked, True, plugged=self._config.has_plugin)
        await self._generate_response(scope, receive, send, body, form, sampling)

    async def _generate_response(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        body: dict[str, Any],
        form: AnyFormatter,
        sampling: SamplingParams,
    ) -> None:
        if self.terminating.is_set():
            await _error(send, 500, "InternalServerError", CORE_DEAD, None)
            return
        if (fault := generation_error(body)) is not None:
            await _generation_error(send, fault, scope, stream=bool(body.get("stream")))
            return
        self.active_requests += 1
        self.idle.clear()
        number = self._core.add_request(_prompt_tokens(form))
        try:
            async with self._batch_slots:
                if body.get("stream"):
                    await self._stream(scope, send, receive, form, sampling, number)
                else:
                    await self._respond_whole(send, receive, form, sampling, number)
        finally:
            self._core.finish_request(number)
            self.active_requests -= 1
            if not self.active_requests:
                self.idle.set()

    def _formatter(self, scope: Scope, body: dict[str, Any], chat: bool) -> OpenAiFormatter:
        given = next((value.decode() for key, value in scope["headers"] if key == b"x-request-id"), None)
        options = body.get("stream_options") or {}
        return OpenAiFormatter(
            chat=chat,
            id=("chatcmpl-" if chat else "cmpl-") + (given or secrets.token_hex(8)),
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

    async def _respond_whole(
        self, send: Send, receive: Receive, form: AnyFormatter, sampling: SamplingParams, number: int
    ) -> None:
        max_model_len = self._config.max_model_len
        runs = [(prompt, sampling.for_choice(number)) for prompt in form.prompts for number in range(form.n)]
        made = [generate(prompt, each, max_model_len) for prompt, each in runs]
        longest = max(len(each.token_ids) for each in made) - len(sampling.resume_ids)
        gone = asyncio.create_task(_wait_for_disconnect(receive))
        ended = asyncio.create_task(self._abort_event().wait())
        await self._core.step(number, longest * self._core.seconds_per_token, (gone, ended), longest)
        is_gone, is_ended = gone.done(), ended.done()
        gone.cancel()
        ended.cancel()
        if not is_gone and not is_ended:
            await _json(send, form.body(made))
        elif not is_gone:
            await _error(send, 500, "InternalServerError", CORE_DEAD, None)

    def _abort_event(self) -> asyncio.Event:
        return self.terminating if self._config.shutdown_timeout_s <= 0 else self.drain_expired

    async def _stream(
        self, scope: Scope, send: Send, receive: Receive, form: AnyFormatter, sampling: SamplingParams, number: int
    ) -> None:
        fault = self._faults.pop(scope["path"])
        if fault is not None and fault.kind in ERROR_RESPONSES:
            self._faults.record(fault, time.time())
            if fault.kind is FaultKind.WRONG_MODEL:
                raise _no_such_model(self._config.model)
            await _error(send, 500, "InternalServerError", CORE_DEAD, None)
            return
        await _start_stream(send)
        gone = asyncio.create_task(_wait_for_disconnect(receive))
        try:
            ending = await self._send_until_end(send, gone, form, sampling, fault, number)
            if ending is None or fault is None:
                return
            self._faults.record(fault, time.time())
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
        """Until the answer is over, or up to a fault: how the connection is then to end."""
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
        for chunk in _stream_chunks(form, sampling, self._config.max_model_len, fault):
            if isinstance(chunk, ConnectionEnd):
                return chunk  # with its last words it happened, whether their reader stayed or not
            pace = self._core.seconds_per_token + self._config.seconds_per_request * (self.active_requests - 1)
            due = max(due, time.monotonic() - _MAX_LATENESS_S) + pace / form.choice_count
            await self._core.step(number, due - time.monotonic(), ends, chunk.tokens)
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
        last = form.error_payloads().error + DONE if self._is_core_dead else form.truncated_end()
        await send({"type": "http.response.body", "body": last})

    # faults

    async def _replace_faults(self, scope: Scope, receive: Receive, send: Send, raw: bytes) -> None:
        try:
            given = orjson.loads(raw)
        except orjson.JSONDecodeError as error:
            raise BadRequest(f"Faults are JSON: {error}.") from error
        self._faults.replace(read_faults(given))
        await _json(send, self._faults.to_json())

    async def _show_faults(self, scope: Scope, receive: Receive, send: Send, raw: bytes) -> None:
        await _json(send, self._faults.to_json())

    async def _change_core(self, scope: Scope, receive: Receive, send: Send, raw: bytes) -> None:
        try:
            self._core.apply(orjson.loads(raw))
        except orjson.JSONDecodeError as error:
            raise BadRequest(f"A core's changes are JSON: {error}.") from error
        await _json(send, self._core.to_json())

    async def _show_core(self, scope: Scope, receive: Receive, send: Send, raw: bytes) -> None:
        await _json(send, self._core.to_json())

    # the rest

    async def _tokenize(self, scope: Scope, receive: Receive, send: Send, raw: bytes) -> None:
        body = _read(raw)
        messages = body.get("messages")
        ids = model.chat_prompt(messages) if messages else model.encode(str(body.get("prompt", "")))
        await _json(send, {"count": len(ids), "max_model_len": self._config.max_model_len, "tokens": ids})

    async def _detokenize(self, scope: Scope, receive: Receive, send: Send, raw: bytes) -> None:
        await _json(send, {"prompt": model.decode(_read(raw).get("tokens", []))})

    async def _health(self, scope: Scope, receive: Receive, send: Send, raw: bytes) -> None:
        await _respond(send, 503 if self._is_core_dead else 200, b"", b"")

    async def _version(self, scope: Scope, receive: Receive, send: Send, raw: bytes) -> None:
        await _json(send, {"version": VERSION})

    async def _load(self, scope: Scope, receive: Receive, send: Send, raw: bytes) -> None:
        await _json(send, {"server_load": self.active_requests})

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
        await _respond(send, 200, ("\n".join(lines) + "\n").encode(), b"text/plain; version=0.0.4; charset=utf-8")

    async def _models(self, scope: Scope, receive: Receive, send: Send, raw: bytes) -> None:
        card = {"object": "model", "created": int(time.time()), "owned_by": "vllm", "root": "/model", "parent": None}
        card["max_model_len"] = self._config.max_model_len
        await _json(send, {"object": "list", "data": [{"id": name, **card} for name in self._config.model_names]})


def _stream_chunks(
    form: AnyFormatter, sampling: SamplingParams, max_model_len: int, fault: Fault | None
) -> Iterator[Chunk | ConnectionEnd]:
    """A stream's chunks, and what a fault makes of them."""
    runs: list[Iterator[Step]] = [
        generate_steps(prompt, sampling.for_choice(number), max_model_len)
        for prompt in form.prompts
        for number in range(form.n)
    ]
    at_once = 0 if sampling.per_token else len(sampling.resume_ids)
    if fault is None:
        yield from _interleave(form, runs, at_once)
        return
    if fault.kind is FaultKind.BEFORE_FINISH:
        runs = [_without_finish_reason(run) for run in runs]
    yield from inject_fault(fault, _interleave(form, runs, at_once), form.error_payloads)


def _without_finish_reason(run: Iterator[Step]) -> Iterator[Step]:
    return (replace(step, finish_reason=None, stop_reason=None) for step in run)


def _interleave(form: AnyFormatter, runs: Iterable[Iterator[Step]], at_once: int) -> Iterator[Chunk]:
    """Chunk after chunk, the choices taking turns. at_once: steps that come together with the one behind them."""
    if not isinstance(form, OpenAiFormatter) or form.chat:
        yield from (form.role_chunk(index) for index in range(form.choice_count))
    for turn in itertools.zip_longest(*(form.choice_chunks(index, run, at_once) for index, run in enumerate(runs))):
        yield from (chunk for chunk in turn if chunk is not None)


def _prompt_tokens(form: AnyFormatter) -> int:
    return sum(len(prompt) for prompt in form.prompts)


def _no_such_model(name: object) -> BadRequest:
    return BadRequest(f"The model `{name}` does not exist.", "model", 404)


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _with_request_id(scope: Scope, send: Send) -> Send:
    """As vLLM with --enable-request-id-headers."""
    given = next((value for key, value in scope["headers"] if key == b"x-request-id"), b"")
    header = (b"x-request-id", given or secrets.token_hex(16).encode())

    async def sent(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], header]
        await send(message)

    return sent


def _check_content_type(scope: Scope) -> None:
    """vLLM refuses a body of no type, too; programs that only play with this one need not give one."""
    given = next((value for key, value in scope["headers"] if key == b"content-type"), b"application/json")
    if given.lower().partition(b";")[0] != b"application/json":
        raise BadRequest("1 validation error:\n  Unsupported Media Type: Only 'application/json' is allowed")


def _read(raw: bytes) -> dict[str, Any]:
    """A body's JSON with its fields as vLLM's pydantic reads them."""
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"1 validation error:\n  {{'type': 'json_invalid', 'msg': '{error}'}}", "body") from error
    if not isinstance(body, dict):
        raise BadRequest("1 validation error:\n  {'type': 'model_attributes_type'}", "body")
    for read, names in _LAX_FIELDS.items():
        for name in names:
            if body.get(name) is None or (name == "logprobs" and "prompt" in body):
                continue
            try:
                body[name] = read(body[name])
            except ValueError as error:
                raise BadRequest(f"1 validation error:\n  {{'loc': 'body.{name}', 'msg': '{error}'}}", name) from error
    stop, options = body.get("stop") or [], body.get("stream_options") or {}
    if not isinstance(stop, str) and not (isinstance(stop, list) and all(isinstance(text, str) for text in stop)):
        raise BadRequest("1 validation error:\n  {'loc': 'body.stop'}", "stop")
    if not isinstance(options, dict):
        raise BadRequest("1 validation error:\n  {'loc': 'body.stream_options'}", "stream_options")
    try:
        body["stream_options"] = {name: value and read_bool(value) for name, value in options.items()}
    except ValueError as error:
        raise BadRequest("1 validation error:\n  {'loc': 'body.stream_options'}", "stream_options") from error
    return body


async def _start_stream(send: Send) -> None:
    """The head of a stream."""
    headers = [(b"content-type", b"text/event-stream; charset=utf-8")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})


async def _generation_error(send: Send, fault: OwnFault, scope: Scope, *, stream: bool) -> None:
    """An error that vLLM finds when it begins to generate: by then a stream has its head."""
    error = {"message": fault.message, "type": fault.kind, "param": fault.param, "code": fault.status}
    if not stream:
        await _json(send, {"error": error}, fault.status)
        return
    await _start_stream(send)
    if scope["path"] in (RESPONSES, MESSAGES):
        last = b"event: error\ndata: %b\n\n" % orjson.dumps({"type": "error", "error": error})
    else:
        last = b"data: %b\n\n" % orjson.dumps({"error": error}) + DONE
    await send({"type": "http.response.body", "body": last})


_LAX_FIELDS: dict[Callable[[object], object], tuple[str, ...]] = {
    read_bool: ("stream", "echo", "logprobs", "return_token_ids", "ignore_eos", "include_stop_str_in_output"),
    read_int: ("max_tokens", "max_completion_tokens", "max_output_tokens", "n", "seed", "min_tokens", "top_logprobs"),
    read_float: ("temperature",),
}


async def _json(send: Send, value: Any, status: int = 200, *more: tuple[bytes, bytes]) -> None:
    await _respond(send, status, orjson.dumps(value), b"application/json", *more)


async def _error(send: Send, status: int, kind: str, message: str, param: str | None) -> None:
    await _json(send, {"error": {"message": message, "type": kind, "param": param, "code": status}}, status)


async def _respond(send: Send, status: int, body: bytes, content_type: bytes, *more: tuple[bytes, bytes]) -> None:
    headers = [(b"content-type", content_type)] if content_type else []
    headers += [(b"content-length", str(len(body)).encode()), *more]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
