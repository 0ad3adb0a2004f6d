"""The stand-in's routes, its pace, and vLLM's ways to end a stream.

* SIGTERM with `--shutdown-timeout 0`: chat streams end with an error chunk and `[DONE]`, plain ones with `[DONE]`,
  neither with a finish_reason; then the process ends.
* SIGTERM with a longer one: streams may finish, new requests get 500, /health stays 200; what has not finished by
  then hangs with its socket open.
* a client that goes away ends its request at once.
* a request with a text of `--on-text` fails, or ends the process (`triggers`).
* with `--faults`, `POST /standin/faults` takes a list of losses for the streams to come (`faults`), in place of all
  told before; GET tells which of them wait and which happened.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import secrets
import signal
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, MutableMapping
from dataclasses import dataclass, replace
from typing import Any

import orjson

from local.standin import model
from local.standin.answers import (
    BadRequest,
    Sampling,
    Step,
    answer,
    is_only_echo,
    read_logprobs,
    read_n,
    read_prompts,
    read_sampling,
    steps,
)
from local.standin.chunks import Form
from local.standin.events import MESSAGES, RESPONSES, EventForm, as_chat, event_form
from local.standin.faults import DONE, NO_STREAM, Chunk, Ending, Fault, Faults, Kind, broken, read_faults
from local.standin.triggers import INTERNAL, Trigger, What, own_fault, triggered
from local.standin.triggers import Fault as OwnFault

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

AnyForm = Form | EventForm

VERSION = "0.32.0"
CORE_DEAD = "EngineCore encountered an issue. See stack trace (above) for the root cause."
RESET = "standin.reset"
"""The ASGI extension that ends a connection with TCP RST."""


@dataclass(frozen=True)
class Config:
    """seconds_per_token: the pace; shutdown_timeout_s: as vLLM's --shutdown-timeout; faults: whether to take them.

    seconds_per_request: how much longer a token takes for each request under way, as a batch of many does.
    max_num_seqs: as vLLM's: requests that are generated at once, all others wait; plugged: whether it has the plug-in,
    and can resume; triggers: requests that it fails at.
    """

    model: str
    seconds_per_token: float = 0.02
    max_model_len: int = 4096
    shutdown_timeout_s: float = 0.0
    faults: bool = False
    max_num_seqs: int = 1_024
    plugged: bool = False
    seconds_per_request: float = 0.0
    triggers: tuple[Trigger, ...] = ()


class StandIn:
    """The ASGI application."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self.running = 0  # requests under way, those that wait included
        self._places = asyncio.Semaphore(config.max_num_seqs)
        self.idle = asyncio.Event()
        self.idle.set()
        self.terminating = asyncio.Event()  # SIGTERM came: no new requests
        self._is_core_dead = False  # as if the engine process behind the API server had ended
        self.killed = asyncio.Event()  # the shutdown timeout is over
        self._routes: dict[tuple[str, str], Callable[[Scope, Receive, Send, bytes], Awaitable[None]]] = {
            ("POST", "/v1/chat/completions"): self._complete,
            ("POST", "/v1/completions"): self._complete,
            ("POST", RESPONSES): self._tell_events,
            ("POST", MESSAGES): self._tell_events,
            ("POST", "/tokenize"): self._tokenize,
            ("POST", "/detokenize"): self._detokenize,
            ("GET", "/health"): self._health,
            ("GET", "/ping"): self._health,
            ("GET", "/version"): self._version,
            ("GET", "/load"): self._load,
            ("GET", "/metrics"): self._metrics,
            ("GET", "/v1/models"): self._models,
        }
        self._faults = Faults()
        if config.faults:
            self._routes["POST", "/standin/faults"] = self._take_faults
            self._routes["GET", "/standin/faults"] = self._tell_faults

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = b""
        while True:
            event = await receive()
            if event["type"] == "http.disconnect":
                return
            body += event.get("body", b"")
            if not event.get("more_body"):
                break
        route = self._routes.get((scope["method"], scope["path"]))
        if route is None:
            await _json(send, {"detail": "Not Found"}, 404)
            return
        try:
            if (what := triggered(self._config.triggers, body)) is not None and scope["path"].startswith("/v1/"):
                await self._fail(scope, send, body, what)
            else:
                await route(scope, receive, send, body)
        except BadRequest as bad:
            await _error(send, bad.status, "NotFoundError" if bad.status == 404 else "Bad Request", str(bad), bad.param)

    async def _fail(self, scope: Scope, send: Send, raw: bytes, what: What) -> None:
        """What a request does to an engine, or an engine to it."""
        wants_stream = bool(_read(raw).get("stream"))
        match what:
            case What.DIES | What.KILLED:
                if wants_stream:
                    await _begin(send)
                    await asyncio.sleep(0.01)  # for the head to leave
                if what is What.KILLED:
                    os.kill(os.getpid(), signal.SIGKILL)
                os._exit(134)
            case What.CORE_DIES:
                self._is_core_dead = True
                self.terminating.set()
                await _error_of(send, OwnFault(500, "InternalServerError", CORE_DEAD), scope, stream=wants_stream)
            case What.ERROR_500:
                await _error_of(send, INTERNAL, scope, stream=wants_stream)
            case What.ERROR_400:
                refused = OwnFault(400, "BadRequestError", "this request is refused")
                await _error_of(send, refused, scope, stream=wants_stream)
            case What.TEXT_500:
                await _respond(send, 500, b"Internal Server Error", b"text/plain; charset=utf-8")
            case What.EMPTY_500:
                await _respond(send, 500, b"", b"text/plain")
            case What.BUSY_503:
                message = "The engine is currently busy and cannot accept new requests."
                await _error(send, 503, "Service Unavailable", message, None)
            case What.BUSY_429:
                await _error(send, 429, "Too Many Requests", "Too many requests.", None)

    # completions

    async def _complete(self, scope: Scope, receive: Receive, send: Send, raw: bytes) -> None:
        chat = scope["path"].startswith("/v1/chat")
        body = _read(raw)
        if body.get("model") not in (None, self._config.model):
            raise _no_such_model(body["model"])
        sampling = read_sampling(body, chat, plugged=self._config.plugged)
        await self._answer(scope, receive, send, body, self._form(scope, body, chat), sampling)

    async def _tell_events(self, scope: Scope, receive: Receive, send: Send, raw: bytes) -> None:
        body, path = _read(raw), scope["path"]
        if body.get("model") not in (None, self._config.model):
            raise _no_such_model(body["model"])
        asked = as_chat(path, body)
        (prompt,) = read_prompts(asked, True, self._config.max_model_len)
        tells_ids = self._config.plugged and bool((asked.get("vllm_xargs") or {}).get("synkti_tell_ids"))
        form = event_form(path, self._config.model, int(time.time()), prompt, tells_ids=tells_ids)
        sampling = read_sampling(asked, True, plugged=self._config.plugged)
        await self._answer(scope, receive, send, body, form, sampling)

    async def _answer(
        self, scope: Scope, receive: Receive, send: Send, body: dict[str, Any], form: AnyForm, sampling: Sampling
    ) -> None:
        if self.terminating.is_set():
            await _error(send, 500, "InternalServerError", CORE_DEAD, None)
            return
        if (fault := own_fault(body)) is not None:
            await _error_of(send, fault, scope, stream=bool(body.get("stream")))
            return
        self.running += 1
        self.idle.clear()
        try:
            async with self._places:
                if body.get("stream"):
                    await self._stream(scope, send, receive, form, sampling)
                else:
                    await self._whole(send, receive, form, sampling)
        finally:
            self.running -= 1
            if not self.running:
                self.idle.set()

    def _form(self, scope: Scope, body: dict[str, Any], chat: bool) -> Form:
        given = next((value.decode() for key, value in scope["headers"] if key == b"x-request-id"), None)
        options = body.get("stream_options") or {}
        return Form(
            chat=chat,
            id=("chatcmpl-" if chat else "cmpl-") + (given or secrets.token_hex(8)),
            created=int(time.time()),
            model=self._config.model,
            prompts=tuple(map(tuple, read_prompts(body, chat, self._config.max_model_len))),
            n=read_n(body),
            echo=bool(body.get("echo")),
            only_echo=is_only_echo(body, chat),
            wants_ids=bool(body.get("return_token_ids")),
            logprobs=read_logprobs(body, chat),
            wants_usage=bool(options.get("include_usage")),
            running_usage=bool(options.get("include_usage") and options.get("continuous_usage_stats")),
        )

    async def _whole(self, send: Send, receive: Receive, form: AnyForm, sampling: Sampling) -> None:
        max_model_len = self._config.max_model_len
        runs = [(prompt, sampling.of_choice(number)) for prompt in form.prompts for number in range(form.n)]
        made = [answer(prompt, each, max_model_len) for prompt, each in runs]
        longest = max(len(each.ids) for each in made) - len(sampling.begun)
        took = asyncio.create_task(asyncio.sleep(longest * self._config.seconds_per_token))
        gone = asyncio.create_task(_disconnected(receive))
        ended = asyncio.create_task(self._end().wait())
        await asyncio.wait({took, gone, ended}, return_when=asyncio.FIRST_COMPLETED)
        for task in (took, gone, ended):
            task.cancel()
        if took.done() and not took.cancelled():
            await _json(send, form.whole(made))
        elif ended.done() and not ended.cancelled():
            await _error(send, 500, "InternalServerError", CORE_DEAD, None)

    def _end(self) -> asyncio.Event:
        return self.terminating if self._config.shutdown_timeout_s <= 0 else self.killed

    async def _stream(self, scope: Scope, send: Send, receive: Receive, form: AnyForm, sampling: Sampling) -> None:
        fault = self._faults.take(scope["path"])
        if fault is not None and fault.kind in NO_STREAM:
            self._faults.happen(fault, time.time())
            if fault.kind is Kind.WRONG_MODEL:
                raise _no_such_model(self._config.model)
            await _error(send, 500, "InternalServerError", CORE_DEAD, None)
            return
        await _begin(send)
        gone = asyncio.create_task(_disconnected(receive))
        try:
            ending = await self._chunks(send, gone, form, sampling, fault)
            if ending is None or fault is None:
                return
            self._faults.happen(fault, time.time())
            if ending is Ending.CLEAN:
                await send({"type": "http.response.body", "body": b""})
            elif ending is Ending.RESET:
                scope["extensions"][RESET]()
            else:
                await gone
        finally:
            gone.cancel()

    async def _chunks(
        self, send: Send, gone: asyncio.Task[None], form: AnyForm, sampling: Sampling, fault: Fault | None
    ) -> Ending | None:
        """Until the answer is over, or up to a fault: how the connection is then to end."""
        end, generated = self._end(), 0
        due = time.monotonic()
        for chunk in _told(form, sampling, self._config.max_model_len, fault):
            if isinstance(chunk, Ending):
                return chunk  # with its last words it happened, whether their reader stayed or not
            pace = self._config.seconds_per_token + self._config.seconds_per_request * (self.running - 1)
            due += pace / form.choices
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            if gone.done():
                return None
            if end.is_set():
                await self._broken_off(send, gone, form)
                return None
            await send({"type": "http.response.body", "body": chunk.data, "more_body": True})
            generated += chunk.tokens
        await send({"type": "http.response.body", "body": form.ending(generated)})
        return None

    async def _broken_off(self, send: Send, gone: asyncio.Task[None], form: AnyForm) -> None:
        if self._config.shutdown_timeout_s > 0:
            await gone  # hangs with its socket open, as vLLM does once its drain timeout is over
            return
        last = form.last_words().error + DONE if self._is_core_dead else form.broken_off()
        await send({"type": "http.response.body", "body": last})

    # faults

    async def _take_faults(self, scope: Scope, receive: Receive, send: Send, raw: bytes) -> None:
        try:
            given = orjson.loads(raw)
        except orjson.JSONDecodeError as error:
            raise BadRequest(f"Faults are JSON: {error}.") from error
        self._faults.replace(read_faults(given))
        await _json(send, self._faults.to_json())

    async def _tell_faults(self, scope: Scope, receive: Receive, send: Send, raw: bytes) -> None:
        await _json(send, self._faults.to_json())

    # the rest

    async def _tokenize(self, scope: Scope, receive: Receive, send: Send, raw: bytes) -> None:
        body = _read(raw)
        messages = body.get("messages")
        ids = model.chat_prompt(messages) if messages else model.encode(str(body.get("prompt", "")))
        await _json(send, {"count": len(ids), "max_model_len": self._config.max_model_len, "tokens": ids})

    async def _detokenize(self, scope: Scope, receive: Receive, send: Send, raw: bytes) -> None:
        await _json(send, {"prompt": model.decode(_read(raw).get("tokens", []))})

    async def _health(self, scope: Scope, receive: Receive, send: Send, raw: bytes) -> None:
        await _respond(send, 503 if self._is_core_dead else 200, b"", b"text/plain")

    async def _version(self, scope: Scope, receive: Receive, send: Send, raw: bytes) -> None:
        await _json(send, {"version": VERSION})

    async def _load(self, scope: Scope, receive: Receive, send: Send, raw: bytes) -> None:
        await _json(send, {"server_load": self.running})

    async def _metrics(self, scope: Scope, receive: Receive, send: Send, raw: bytes) -> None:
        label = f'{{engine="0",model_name="{self._config.model}"}}'
        running = min(self.running, self._config.max_num_seqs)
        waiting = self.running - running
        figures = {"num_requests_running": running, "num_requests_waiting": waiting, "kv_cache_usage_perc": 0}
        lines = [f"vllm:{name}{label} {float(value)}" for name, value in figures.items()]
        await _respond(send, 200, ("\n".join(lines) + "\n").encode(), b"text/plain; version=0.0.4; charset=utf-8")

    async def _models(self, scope: Scope, receive: Receive, send: Send, raw: bytes) -> None:
        card = {"id": self._config.model, "object": "model", "created": 0, "owned_by": "vllm"}
        card["max_model_len"] = self._config.max_model_len
        await _json(send, {"object": "list", "data": [card]})


def _told(form: AnyForm, sampling: Sampling, max_model_len: int, fault: Fault | None) -> Iterator[Chunk | Ending]:
    """A stream's chunks, and what a fault makes of them."""
    runs: list[Iterator[Step]] = [
        steps(prompt, sampling.of_choice(number), max_model_len) for prompt in form.prompts for number in range(form.n)
    ]
    at_once = 0 if sampling.apart else len(sampling.begun)
    if fault is None:
        yield from _interleaved(form, runs, at_once)
        return
    if fault.kind is Kind.BEFORE_FINISH:
        runs = [_unfinished(run) for run in runs]
    yield from broken(fault, _interleaved(form, runs, at_once), form.last_words)


def _unfinished(run: Iterator[Step]) -> Iterator[Step]:
    return (replace(step, finish_reason=None, stop_reason=None) for step in run)


def _interleaved(form: AnyForm, runs: Iterable[Iterator[Step]], at_once: int) -> Iterator[Chunk]:
    """Chunk after chunk, the choices taking turns. at_once: steps that come together with the one behind them."""
    if not isinstance(form, Form) or form.chat:
        yield from (form.role_chunk(index) for index in range(form.choices))
    for turn in itertools.zip_longest(*(form.choice_chunks(index, run, at_once) for index, run in enumerate(runs))):
        yield from (chunk for chunk in turn if chunk is not None)


def _no_such_model(name: object) -> BadRequest:
    return BadRequest(f"The model `{name}` does not exist.", "model", 404)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _read(raw: bytes) -> dict[str, Any]:
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"1 validation error:\n  {{'type': 'json_invalid', 'msg': '{error}'}}", "body") from error
    if not isinstance(body, dict):
        raise BadRequest("1 validation error:\n  {'type': 'model_attributes_type'}", "body")
    return body


async def _begin(send: Send) -> None:
    """The head of a stream."""
    headers = [(b"content-type", b"text/event-stream; charset=utf-8")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})


async def _error_of(send: Send, fault: OwnFault, scope: Scope, *, stream: bool) -> None:
    """An error that vLLM finds when it begins to generate: by then a stream has its head."""
    error = {"message": fault.message, "type": fault.kind, "param": fault.param, "code": fault.status}
    if not stream:
        await _json(send, {"error": error}, fault.status)
        return
    await _begin(send)
    if scope["path"] in (RESPONSES, MESSAGES):
        last = b"event: error\ndata: %b\n\n" % orjson.dumps({"type": "error", "error": error})
    else:
        last = b"data: %b\n\n" % orjson.dumps({"error": error}) + DONE
    await send({"type": "http.response.body", "body": last})


async def _json(send: Send, value: Any, status: int = 200) -> None:
    await _respond(send, status, orjson.dumps(value), b"application/json")


async def _error(send: Send, status: int, kind: str, message: str, param: str | None) -> None:
    await _json(send, {"error": {"message": message, "type": kind, "param": param, "code": status}}, status)


async def _respond(send: Send, status: int, body: bytes, content_type: bytes) -> None:
    headers = [(b"content-type", content_type), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
