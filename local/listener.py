"""The client of the story: the real OpenAI SDK, reading a stream and taking notes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import openai

from local.certificate import Answer

TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Question:
    """chat: a conversation of one message, or a plain prompt."""

    chat: bool
    text: str
    max_tokens: int

    def limited(self, max_tokens: int) -> Question:
        return Question(self.chat, self.text, max_tokens)


@dataclass
class Heard:
    """What a client heard, and when (monotonic seconds).

    node: whose engine began it; error: how it broke, if it did.
    """

    node: str
    ids: list[int] = field(default_factory=list)
    text: str = ""
    arrivals: list[float] = field(default_factory=list)
    error: str | None = None

    @property
    def answer(self) -> Answer:
        return Answer(tuple(self.ids), self.text)

    def longest_gap_ms(self, since: float) -> float:
        """The longest wait between two chunks, of which the second came after `since`."""
        gaps = [b - a for a, b in zip(self.arrivals, self.arrivals[1:], strict=False) if b >= since]
        return round(max(gaps, default=0.0) * 1000, 1)


async def listen(url: str, model: str, question: Question, heard_more: Callable[[Heard, str], None]) -> Heard:
    """Ask at `url` (a node's front door) and read to the end; `heard_more` gets each new piece of text."""
    client = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="local", timeout=TIMEOUT_S, max_retries=0)
    async with client:
        raw = await _ask(client, model, question)
        heard = Heard(raw.headers.get("x-synkti-node", ""))
        try:
            async for chunk in await raw.parse():
                heard.arrivals.append(time.monotonic())
                piece = _note(heard, chunk)
                heard_more(heard, piece)
        except openai.APIError as error:
            heard.error = str(error)
    return heard


async def _ask(client: openai.AsyncOpenAI, model: str, question: Question) -> Any:
    options: dict[str, Any] = {
        "model": model,
        "stream": True,
        "temperature": 0,
        "max_tokens": question.max_tokens,
        "extra_body": {"return_token_ids": True, "ignore_eos": True},
    }
    if question.chat:
        messages: Any = [{"role": "user", "content": question.text}]
        return await client.chat.completions.with_streaming_response.create(messages=messages, **options).__aenter__()
    return await client.completions.with_streaming_response.create(prompt=question.text, **options).__aenter__()


def _note(heard: Heard, chunk: Any) -> str:
    """Add a chunk of either kind to the notes; the text in it."""
    piece = ""
    for choice in chunk.choices:
        delta = getattr(choice, "delta", None)
        piece += (delta.content or "") if delta is not None else choice.text or ""
        heard.ids += getattr(choice, "token_ids", None) or []
    heard.text += piece
    return piece
