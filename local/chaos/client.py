"""Sends one request with the real OpenAI SDK, through the transport or the gateway, and checks its answer's form."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import openai

from local.certificate import Output
from local.chaos.event_collector import EventCollector
from local.chaos.workload import WorkloadRequest
from local.continuation_timer import Continuation, ContinuationTimer
from synkti_client import httpx

_TIMEOUT_S = 180.0


@dataclass
class RequestResult:
    """What a client received for one request."""

    request: WorkloadRequest
    outputs: list[Output]
    """One for each choice; without token ids if the request did not ask for them."""

    finish_reasons: list[str]
    continuations: list[Continuation] = field(default_factory=list)
    error: str | None = None
    inconsistency: str | None = None


async def send_request(
    request: WorkloadRequest, model: str, base_url: str, transport: httpx.AsyncBaseTransport, key: str = ""
) -> RequestResult:
    """Send a request and read its answer. key: the client's, "" where the fleet needs none.

    Returns:
        The answer. Failures that a client can see are in its `error`, never raised.
    """
    result = RequestResult(request, [], [])
    timed = ContinuationTimer(transport, result.continuations)
    headers = {"authorization": f"Bearer {key}"} if key else {}
    http = httpx.AsyncClient(transport=timed, timeout=_TIMEOUT_S, headers=headers)
    collector: EventCollector | _ChunkCollector
    try:
        if request.uses_named_events:
            collector = EventCollector(request)
            await collector.collect(http, base_url, model)
        else:
            collector = _ChunkCollector(request)
            sdk = openai.AsyncOpenAI(base_url=base_url, api_key=key or "chaos", max_retries=0, http_client=http)
            await _collect(collector, sdk, model)
    except (openai.OpenAIError, httpx.HTTPError) as error:
        result.error = f"{type(error).__name__}: {error} ({error.__cause__!r})"
    result.outputs, result.finish_reasons = collector.outputs(), collector.finish_reasons
    result.inconsistency = collector.inconsistency()
    return result


async def _collect(collector: _ChunkCollector, client: openai.AsyncOpenAI, model: str) -> None:
    request = collector.request
    route: Any = client.chat.completions if request.chat else client.completions
    answer = await route.create(**request.sdk_arguments(model))
    if not request.stream:
        collector.add_body(answer)
        return
    async for chunk in answer:
        collector.add_chunk(chunk)


class _ChunkCollector:
    """Adds up the chunks of an answer, by choice."""

    def __init__(self, request: WorkloadRequest) -> None:
        self.request = request
        self._text = [""] * request.choices
        self._ids: list[list[int]] = [[] for _ in range(request.choices)]
        self._logprobs = [0] * request.choices
        self._usage: Any = None
        self.finish_reasons: list[str] = []

    def add_chunk(self, chunk: Any) -> None:
        self._usage = chunk.usage or self._usage
        for choice in chunk.choices:
            self._add_choice(choice, choice.delta.content if self.request.chat else choice.text)

    def add_body(self, answer: Any) -> None:
        self._usage = answer.usage
        for choice in answer.choices:
            self._add_choice(choice, choice.message.content if self.request.chat else choice.text)

    def _add_choice(self, choice: Any, text: str | None) -> None:
        self._text[choice.index] += text or ""
        self._ids[choice.index] += getattr(choice, "token_ids", None) or []
        if choice.logprobs is not None:
            logprobs = choice.logprobs.content if self.request.chat else choice.logprobs.tokens
            self._logprobs[choice.index] += len(logprobs or ())
        if choice.finish_reason:
            self.finish_reasons.append(choice.finish_reason)

    def outputs(self) -> list[Output]:
        return [Output(tuple(ids), text) for ids, text in zip(self._ids, self._text, strict=True)]

    def inconsistency(self) -> str | None:
        """Return what else is wrong: a missing or doubled end, logprobs or usage that do not add up."""
        request = self.request
        if len(self.finish_reasons) != request.choices:
            return f"{len(self.finish_reasons)} ends of {request.choices} choices"
        if request.usage and request.stream and self._usage is None:
            return "no usage"
        if request.returns_token_ids and request.stream:
            tokens = sum(map(len, self._ids))
            if self._usage is not None and self._usage.completion_tokens != tokens:
                return f"usage of {self._usage.completion_tokens} tokens, {tokens} came"
            if request.logprobs and sum(self._logprobs) != tokens:
                return f"logprobs of {sum(self._logprobs)} tokens, {tokens} came"
        return None
