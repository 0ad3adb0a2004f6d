"""One client's question asked and its answer compared: the real OpenAI SDK, through the transport or the gateway."""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import openai

from local.certificate import Output
from local.chaos.event_notes import EventCollector
from local.chaos.workload import WorkloadRequest
from node_agent.contract.names import EVENT_IDS_HEADER
from synkti_client import httpx

_CONTINUED = re.compile(rb": synkti continued on \S+ after (\S+) on (\S+), pause (\S+) ms")
_TIMEOUT_S = 180.0


@dataclass(frozen=True)
class Continuation:
    """A stream went on: whom it lost, why, and how long the client had nothing."""

    lost: str
    why: str
    ms: float


@dataclass
class RequestResult:
    """What came. answers: one for each choice; ids are those told, none where the question did not ask for them."""

    request: WorkloadRequest
    outputs: list[Output]
    finish_reasons: list[str]
    continuations: list[Continuation] = field(default_factory=list)
    error: str | None = None
    inconsistency: str | None = None


class Stopwatch(httpx.AsyncBaseTransport):
    """A transport with an eye on the clock: where a stream went on, the time since the bytes before."""

    def __init__(self, inner: httpx.AsyncBaseTransport, seen: list[Continuation]) -> None:
        self._inner = inner
        self._seen = seen

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        request.headers[EVENT_IDS_HEADER] = "true"  # with the ids come the comments
        response = await self._inner.handle_async_request(request)
        if not isinstance(response.stream, httpx.AsyncByteStream) or response.is_closed:
            return response
        stream = _Timed(response.stream, self._seen)
        return httpx.Response(response.status_code, headers=response.headers, stream=stream)


class _Timed(httpx.AsyncByteStream):
    def __init__(self, inner: httpx.AsyncByteStream, seen: list[Continuation]) -> None:
        self._inner = inner
        self._seen = seen

    async def __aiter__(self) -> AsyncIterator[bytes]:
        before = time.monotonic()
        async for data in self._inner:
            now = time.monotonic()
            for why, lost, at_entry_ms in _CONTINUED.findall(data):
                ms = max((now - before) * 1000, float(at_entry_ms))
                self._seen.append(Continuation(lost.decode(), why.decode(), round(ms, 1)))
            before = now
            yield data

    async def aclose(self) -> None:
        await self._inner.aclose()


async def send_request(
    question: WorkloadRequest, model: str, base_url: str, transport: httpx.AsyncBaseTransport
) -> RequestResult:
    """Never raises for what a client can see: that is the answer's `error`."""
    heard = RequestResult(question, [], [])
    http = httpx.AsyncClient(transport=Stopwatch(transport, heard.continuations), timeout=_TIMEOUT_S)
    notes: EventCollector | _ChunkCollector
    try:
        if question.uses_named_events:
            notes = EventCollector(question)
            await notes.collect(http, base_url, model)
        else:
            notes = _ChunkCollector(question)
            await _collect(
                notes, openai.AsyncOpenAI(base_url=base_url, api_key="chaos", max_retries=0, http_client=http), model
            )
    except (openai.OpenAIError, httpx.HTTPError) as error:
        heard.error = f"{type(error).__name__}: {error} ({error.__cause__!r})"
    heard.outputs, heard.finish_reasons, heard.inconsistency = (
        notes.outputs(),
        notes.finish_reasons,
        notes.inconsistency(),
    )
    return heard


async def _collect(notes: _ChunkCollector, client: openai.AsyncOpenAI, model: str) -> None:
    question = notes.request
    route: Any = client.chat.completions if question.chat else client.completions
    answer = await route.create(**question.sdk_arguments(model))
    if not question.stream:
        notes.add_body(answer)
        return
    async for chunk in answer:
        notes.add_chunk(chunk)


class _ChunkCollector:
    """What all chunks said, by choice."""

    def __init__(self, question: WorkloadRequest) -> None:
        self.request = question
        self._text = [""] * question.choices
        self._ids: list[list[int]] = [[] for _ in range(question.choices)]
        self._logprobs = [0] * question.choices
        self._usage: Any = None
        self.finish_reasons: list[str] = []

    def add_chunk(self, chunk: Any) -> None:
        self._usage = chunk.usage or self._usage
        for choice in chunk.choices:
            said = choice.delta.content if self.request.chat else choice.text
            self._add_choice(choice, said)

    def add_body(self, answer: Any) -> None:
        self._usage = answer.usage
        for choice in answer.choices:
            self._add_choice(choice, choice.message.content if self.request.chat else choice.text)

    def _add_choice(self, choice: Any, said: str | None) -> None:
        self._text[choice.index] += said or ""
        self._ids[choice.index] += getattr(choice, "token_ids", None) or []
        if choice.logprobs is not None:
            told = choice.logprobs.content if self.request.chat else choice.logprobs.tokens
            self._logprobs[choice.index] += len(told or ())
        if choice.finish_reason:
            self.finish_reasons.append(choice.finish_reason)

    def outputs(self) -> list[Output]:
        return [Output(tuple(ids), text) for ids, text in zip(self._ids, self._text, strict=True)]

    def inconsistency(self) -> str | None:
        """What else is wrong: an end that is missing or doubled, logprobs or usage that do not add up."""
        question = self.request
        if len(self.finish_reasons) != question.choices:
            return f"{len(self.finish_reasons)} ends of {question.choices} choices"
        if question.usage and question.stream and self._usage is None:
            return "no usage"
        if question.returns_token_ids and question.stream:
            tokens = sum(map(len, self._ids))
            if self._usage is not None and self._usage.completion_tokens != tokens:
                return f"usage of {self._usage.completion_tokens} tokens, {tokens} came"
            if question.logprobs and sum(self._logprobs) != tokens:
                return f"logprobs of {sum(self._logprobs)} tokens, {tokens} came"
        return None
