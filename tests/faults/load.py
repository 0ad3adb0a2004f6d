"""Clients of a fleet that has trouble: what they ask, and that every answer is whole and the same as ever."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import orjson

from tests.scenarios.local_fleet import MODEL, LocalFleet, LocalNode

TOKENS = 40


def _text(body: str, stream: bool) -> str:
    """What was generated. Raises AssertionError where the answer is not whole."""
    if not stream:
        (choice,) = orjson.loads(body)["choices"]
        assert choice["finish_reason"] == "length", body
        return str(choice["text"])
    events = [line[6:] for line in body.splitlines() if line.startswith("data: ")]
    assert events[-1] == "[DONE]", body[-500:]
    chunks = [orjson.loads(event) for event in events[:-1]]
    assert not any("error" in chunk for chunk in chunks), body[-500:]
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    assert [choice["finish_reason"] for choice in choices if choice["finish_reason"]] == ["length"]
    return "".join(choice["text"] for choice in choices)


@dataclass
class LoadGenerator:
    """texts: what each prompt was answered the first time; asked: answers so far."""

    fleet: LocalFleet
    texts: dict[str, str] = field(default_factory=dict)
    asked: int = 0

    async def ask(self, entry: LocalNode, number: int, stream: bool) -> None:
        prompt = f"question {number}"
        body = {"model": MODEL, "prompt": prompt, "max_tokens": TOKENS, "stream": stream, "temperature": 0}
        response = await self.fleet.http.post(f"{entry.url}/v1/completions", json=body)
        assert response.status_code == 200, response.text
        text = _text(response.text, stream)
        assert self.texts.setdefault(prompt, text) == text, "tokens were lost, or came twice"
        self.asked += 1

    async def everywhere(self, entries: list[LocalNode], prompts: int = 2) -> None:
        """Each prompt at each entry, streamed and whole, all at once."""
        asking = [self.ask(entry, n, stream) for entry in entries for n in range(prompts) for stream in (True, False)]
        async with asyncio.timeout(60):
            await asyncio.gather(*asking)
