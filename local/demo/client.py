"""Reads one stream with the real OpenAI SDK and records what it receives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import openai

from local.certificate import Output
from local.continuation_timer import Continuation, ContinuationTimer
from node_agent.contract.names import NODE_HEADER
from synkti_client import httpx

TIMEOUT_S = 120.0


@dataclass(frozen=True)
class DemoRequest:
    """A request for a streamed answer."""

    chat: bool
    """True for a conversation of one message, False for a plain prompt."""

    text: str
    max_tokens: int

    def limited(self, max_tokens: int) -> DemoRequest:
        """Return the same request for at most so many tokens."""
        return DemoRequest(self.chat, self.text, max_tokens)


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


async def read_stream(
    url: str,
    model: str,
    request: DemoRequest,
    on_chunk: Callable[[StreamResult, str], None],
    api_key: str = "local",
) -> StreamResult:
    """Send a request to a node's client API and read the stream to its end.

    Args:
        url: of the node.
        model: the model's name.
        request: what is sent.
        on_chunk: called with the result so far and the new text.
        api_key: of the client; a fleet without keys ignores it.

    Returns:
        What was received; an error of the API or the connection is in it.
    """
    continuations: list[Continuation] = []
    http = httpx.AsyncClient(transport=ContinuationTimer(httpx.AsyncHTTPTransport(), continuations), timeout=TIMEOUT_S)
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=api_key, max_retries=0, http_client=http) as client:
        result = StreamResult("", continuations=continuations)
        try:
            raw = await _send_request(client, model, request)
            result.node = raw.headers.get(NODE_HEADER, "")
            async for chunk in await raw.parse():
                on_chunk(result, _add_chunk(result, chunk))
        except openai.APIError as error:
            result.error = str(error)
    return result


async def _send_request(client: openai.AsyncOpenAI, model: str, request: DemoRequest) -> Any:
    options: dict[str, Any] = {
        "model": model,
        "stream": True,
        "temperature": 0,
        "max_tokens": request.max_tokens,
        "extra_body": {"return_token_ids": True},
    }
    if request.chat:
        messages: Any = [{"role": "user", "content": request.text}]
        return await client.chat.completions.with_streaming_response.create(messages=messages, **options).__aenter__()
    return await client.completions.with_streaming_response.create(prompt=request.text, **options).__aenter__()


def _add_chunk(result: StreamResult, chunk: Any) -> str:
    """Add a chunk of either route to the result; return its text."""
    text = ""
    for choice in chunk.choices:
        delta = getattr(choice, "delta", None)
        text += (delta.content or "") if delta is not None else choice.text or ""
        result.token_ids += getattr(choice, "token_ids", None) or []
    result.text += text
    return text
