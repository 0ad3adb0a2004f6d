"""Reads one stream with the real OpenAI SDK, or with curl, and records what it receives."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import openai

from local.certificate import Output
from local.continuation_timer import Continuation, ContinuationTimer, continuations_in
from local.demo.request import DemoRequest
from local.errors import UserActionRequired
from node_agent.contract.names import EVENT_IDS_HEADER, NODE_HEADER
from synkti_client import httpx

TIMEOUT_S = 120.0


@dataclass
class StreamResult:
    """What a client received of one stream."""

    node: str
    """The node whose engine began the stream; empty if none did."""

    token_ids: list[int] = field(default_factory=list)
    text: str = ""
    continuations: list[Continuation] = field(default_factory=list)
    error: str | None = None
    """Why the stream failed, if it did."""

    @property
    def output(self) -> Output:
        """What was received, to compare with the reference."""
        return Output(tuple(self.token_ids), self.text)

    def continued_from(self, node: str) -> Continuation | None:
        """Return the continuation after the loss of this node, None if there was none."""
        return next((each for each in self.continuations if each.lost_node == node), None)


OnChunk = Callable[[StreamResult, str], None]
"""Called with the result so far and the new text."""


async def read_stream(
    url: str,
    model: str,
    request: DemoRequest,
    on_chunk: OnChunk,
    transport: httpx.AsyncBaseTransport | None = None,
    accepts: Callable[[StreamResult], bool] = lambda result: True,
    api_key: str = "local",
) -> StreamResult:
    """Send a request to a node's client API and read the stream to its end.

    Args:
        url: of the node.
        model: the model's name.
        request: what is sent.
        on_chunk: called for each chunk.
        transport: how it is sent; by default as any stock SDK does.
        accepts: called when the node that generates is known; False: the stream is closed unread.
        api_key: of the client; a fleet without keys ignores it.

    Returns:
        What was received; an error of the API or the connection is in it.
    """
    continuations: list[Continuation] = []
    timer = ContinuationTimer(transport or httpx.AsyncHTTPTransport(), continuations)
    http = httpx.AsyncClient(transport=timer, timeout=TIMEOUT_S)
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=api_key, max_retries=0, http_client=http) as client:
        result = StreamResult("", continuations=continuations)
        try:
            raw = await _send_request(client, model, request)
            result.node = raw.headers.get(NODE_HEADER, "")
            if not accepts(result):
                await raw.close()
                return result
            async for chunk in await raw.parse():
                on_chunk(result, _add_chunk(result, chunk))
        except (openai.APIError, httpx.HTTPError) as error:
            result.error = str(error.__cause__ or error) or type(error.__cause__ or error).__name__
    return result


async def read_with_curl(url: str, model: str, request: DemoRequest, on_chunk: OnChunk) -> StreamResult:
    """Send a chat with curl and read its output to its end. Raises UserActionRequired where there is no curl."""
    body = {**_options(model, request), "messages": [{"role": "user", "content": request.text}]}
    body |= body.pop("extra_body")
    # With the event ids come the nodes' comments on where another one continued.
    argv = ["curl", "--no-buffer", "--silent", "--show-error", f"{url}/v1/chat/completions"]
    argv += ["-H", "content-type: application/json", "-H", f"{EVENT_IDS_HEADER}: true", "-d", json.dumps(body)]
    try:
        process = await asyncio.create_subprocess_exec(
            *argv, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, start_new_session=True
        )
    except FileNotFoundError:
        raise UserActionRequired("curl is missing; install it") from None
    result = StreamResult("")
    try:
        await _read_lines(process.stdout, result, on_chunk)
        _, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    if process.returncode:
        result.error = f"curl ended with status {process.returncode}: {errors.decode(errors='replace').strip()}"
    return result


async def _read_lines(lines: asyncio.StreamReader | None, result: StreamResult, on_chunk: OnChunk) -> None:
    if lines is None:
        raise AssertionError("curl's output is a pipe")
    last_read_at = time.monotonic()
    async for line in lines:
        now = time.monotonic()
        result.continuations += continuations_in(line, now - last_read_at)
        last_read_at = now
        if line.startswith(b"data: {"):
            chunk = json.loads(line[len(b"data: ") :])
            if "error" in chunk:
                result.error = str(chunk["error"].get("message"))
                continue
            text = ""
            for choice in chunk["choices"]:
                text += choice["delta"].get("content") or ""
                result.token_ids += choice.get("token_ids") or []
            result.text += text
            on_chunk(result, text)


async def _send_request(client: openai.AsyncOpenAI, model: str, request: DemoRequest) -> Any:
    options = _options(model, request)
    if request.chat:
        messages: Any = [{"role": "user", "content": request.text}]
        return await client.chat.completions.with_streaming_response.create(messages=messages, **options).__aenter__()
    return await client.completions.with_streaming_response.create(prompt=request.text, **options).__aenter__()


def _options(model: str, request: DemoRequest) -> dict[str, Any]:
    return {
        "model": model,
        "stream": True,
        "temperature": 0,
        "max_tokens": request.max_tokens,
        "extra_body": {"return_token_ids": True},
    }


def _add_chunk(result: StreamResult, chunk: Any) -> str:
    """Add a chunk of either route to the result; return its text."""
    text = ""
    for choice in chunk.choices:
        delta = getattr(choice, "delta", None)
        text += (delta.content or "") if delta is not None else choice.text or ""
        result.token_ids += getattr(choice, "token_ids", None) or []
    result.text += text
    return text
