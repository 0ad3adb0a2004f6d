"""Sends load to a fleet under faults, and asserts that every answer is complete and always the same."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import orjson

from tests.scenarios.local_fleet import MODEL, LocalFleet, LocalNode

TOKENS = 40


def _text(body: str, stream: bool) -> str:
    """Return the generated text. Raises AssertionError if the answer is not complete."""
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
    """Sends requests and compares their answers. texts: first answer by prompt; completed: answers so far."""

    fleet: LocalFleet
    texts: dict[str, str] = field(default_factory=dict)
    completed: int = 0

    async def request(self, entry: LocalNode, number: int, stream: bool) -> None:
        prompt = f"question {number}"
        body = {"model": MODEL, "prompt": prompt, "max_tokens": TOKENS, "stream": stream, "temperature": 0}
        response = await self.fleet.http.post(f"{entry.url}/v1/completions", json=body)
        assert response.status_code == 200, response.text
        text = _text(response.text, stream)
        assert self.texts.setdefault(prompt, text) == text, "tokens were lost, or came twice"
        self.completed += 1

    async def everywhere(self, entries: list[LocalNode], prompts: int = 2) -> None:
        """Send each prompt to each entry, streamed and buffered, all concurrently."""
        requests = [
            self.request(entry, n, stream) for entry in entries for n in range(prompts) for stream in (True, False)
        ]
        async with asyncio.timeout(60):
            await asyncio.gather(*requests)
