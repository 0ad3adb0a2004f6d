"""A client of `/v1/responses` or `/v1/messages`: what its events add up to, and whether they agree with each other."""

from __future__ import annotations

from typing import Any

import orjson

from local.certificate import Answer
from local.chaos.workload import WorkloadRequest
from node_agent.core.openai.sse import SseParser
from synkti_client import httpx

_DELTAS = frozenset({"response.output_text.delta", "content_block_delta"})


class EventNotes:
    """As `listening._Notes`, of events. finish_reasons: one for each end that was told."""

    def __init__(self, question: WorkloadRequest) -> None:
        self._question = question
        self._text = ""
        self._whole: str | None = None  # as the end of a response says it again
        self._numbers: list[int] = []
        self.finish_reasons: list[str] = []

    async def hear(self, http: httpx.AsyncClient, base_url: str, model: str) -> None:
        """Ask, and take all that comes. Raises httpx.HTTPError, and for an error in the stream, too."""
        url, body = f"{base_url}/{self._question.route}", self._question.event_options(model)
        async with http.stream("POST", url, json=body) as response:
            if response.status_code != 200 or not self._question.stream:
                await response.aread()
                response.raise_for_status()
                self._take_whole(response.json())
                return
            parser = SseParser()
            async for data in response.aiter_bytes():
                for _, payload in parser.feed(data):
                    self.take(orjson.loads(payload))

    def take(self, event: dict[str, Any]) -> None:
        """Raises httpx.ReadError for one that says that the stream is broken."""
        if event.get("error"):
            raise httpx.ReadError(f"an error in the stream: {event['error']}")
        if (number := event.get("sequence_number")) is not None:
            self._numbers.append(number)
        kind, delta = event["type"], event.get("delta")
        if kind in _DELTAS:
            self._text += delta if isinstance(delta, str) else delta.get("text", "") if delta else ""
        elif kind == "message_delta" and delta:
            self.finish_reasons.append(delta["stop_reason"])
        elif kind == "response.completed":
            self._take_end(event["response"])

    def _take_end(self, response: dict[str, Any]) -> None:
        self.finish_reasons.append(response["status"])
        self._whole = "".join(part["text"] for item in response["output"] for part in item["content"])

    def _take_whole(self, answer: dict[str, Any]) -> None:
        if self._question.route == "responses":
            self._take_end(answer)
            self._text = self._whole or ""
        else:
            self.finish_reasons.append(answer["stop_reason"])
            self._text = "".join(part["text"] for part in answer["content"])

    def answers(self) -> list[Answer]:
        return [Answer((), self._text)]

    def odd(self) -> str | None:
        """What else is wrong: an end that is missing or doubled, numbers with holes, a whole that is not its parts."""
        if len(self.finish_reasons) != 1:
            return f"{len(self.finish_reasons)} ends of one answer"
        if self._numbers != list(range(len(self._numbers))):
            return f"events are numbered {self._numbers[:3]}...{self._numbers[-3:]}, {len(self._numbers)} in all"
        if self._whole is not None and self._whole != self._text:
            return "the whole response is not what its deltas add up to"
        return None
