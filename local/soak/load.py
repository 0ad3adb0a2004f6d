"""Generates the load of a soak: concurrent streams, each output compared with the expected one."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from random import Random

import orjson

import synkti_client
from local.engines import MODEL
from local.fake_engine import model as fake_model
from local.fake_engine.answers import SamplingParams, generate
from node_agent.core.openai.sse import DONE, SseParser
from synkti_client import httpx

_TEXTS = ("a night train", "the river", "雨の夜", "🚀 and 🌍", "кто там", "3 lights")
_TIMEOUT_S = 180.0
_TOKENS = (40, 160, 20)


@dataclass
class LoadTotals:
    """Totals of all clients. tokens: of complete answers; failures: a reason for each wrong answer or error."""

    completed: int = 0
    tokens: int = 0
    active: int = 0
    failures: list[str] = field(default_factory=list)


class LoadGenerator:
    """Runs clients that read one stream after another until `stop`."""

    def __init__(self, transport: synkti_client.AsyncContinuousTransport, seed: int) -> None:
        self.totals = LoadTotals()
        self._http = httpx.AsyncClient(transport=transport, timeout=_TIMEOUT_S)
        self._random = Random(seed)  # noqa: S311 # it is to be repeatable
        self._references: dict[tuple[str, int], str] = {}
        self._stopping = asyncio.Event()
        self._clients: list[asyncio.Task[None]] = []

    def start(self, streams: int, over_s: float) -> None:
        """Start so many streams, spread evenly over `over_s` seconds."""
        for number in range(streams):
            random = Random(self._random.random())  # noqa: S311 # it is to be repeatable
            self._clients.append(asyncio.create_task(self._client(random, over_s * number / streams)))

    async def stop(self) -> None:
        """Start no new streams; wait until the active ones end."""
        self._stopping.set()
        await asyncio.gather(*self._clients)
        await self._http.aclose()

    async def _client(self, random: Random, after_s: float) -> None:
        await asyncio.sleep(after_s)
        while not self._stopping.is_set():
            text, tokens = random.choice(_TEXTS), random.randrange(*_TOKENS)
            self.totals.active += 1
            try:
                text_received = await self._stream(text, tokens)
            except (httpx.HTTPError, ValueError) as error:
                self.totals.failures.append(f"{type(error).__name__}: {error} ({text!r}, {tokens} tokens)")
                continue
            finally:
                self.totals.active -= 1
            self.totals.completed += 1
            self.totals.tokens += tokens
            if text_received != self._expected(text, tokens):
                self.totals.failures.append(
                    f"another answer than the known one ({text!r}, {tokens} tokens): {text_received[-40:]!r}"
                )

    async def _stream(self, text: str, tokens: int) -> str:
        """Return the text of one streamed completion. Raises httpx.HTTPError, ValueError for an error or no end."""
        body = {"model": MODEL, "prompt": text, "max_tokens": tokens, "ignore_eos": True, "stream": True}
        parser, pieces, ended = SseParser(), list[str](), False
        async with self._http.stream("POST", "http://synkti/v1/completions", json=body) as response:
            if response.status_code != 200:
                raise ValueError(f"{response.status_code}: {(await response.aread())[:300]!r}")
            async for data in response.aiter_bytes():
                for _, payload in parser.feed(data):
                    if payload == DONE:
                        ended = True
                        continue
                    event = orjson.loads(payload)
                    if "error" in event:
                        raise ValueError(str(event["error"]))
                    pieces += [choice["text"] for choice in event["choices"]]
        if not ended:
            raise ValueError("the stream ended without [DONE]")
        return "".join(pieces)

    def _expected(self, text: str, tokens: int) -> str:
        known = self._references.get((text, tokens))
        if known is None:
            prompt = fake_model.completion_prompt(text)
            known = self._references[text, tokens] = generate(prompt, SamplingParams(tokens, ignore_eos=True)).text
        return known
