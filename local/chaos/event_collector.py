"""Adds up the events of `/v1/responses` or `/v1/messages` and checks that they agree with each other."""

from __future__ import annotations

from typing import Any

import orjson

from local.certificate import Output
from local.chaos.workload import WorkloadRequest
from node_agent.core.openai.sse import SseParser
from synkti_client import httpx

_DELTAS = frozenset({"response.output_text.delta", "content_block_delta"})


class EventCollector:
    """Adds up events as `client._ChunkCollector` adds up chunks. finish_reasons: one for each end event."""

    def __init__(self, request: WorkloadRequest) -> None:
        self._request = request
        self._text = ""
        self._final_text: str | None = None  # the text that the final event repeats
        self._sequence_numbers: list[int] = []
        self.finish_reasons: list[str] = []

    async def collect(self, http: httpx.AsyncClient, base_url: str, model: str) -> None:
        """Send the request and read its answer. Raises httpx.HTTPError, also for an error in the stream."""
        url, body = f"{base_url}/{self._request.route}", self._request.event_body(model)
        async with http.stream("POST", url, json=body) as response:
            if response.status_code != 200 or not self._request.stream:
                await response.aread()
                response.raise_for_status()
                self._add_body(response.json())
                return
            parser = SseParser()
            async for data in response.aiter_bytes():
                for _, payload in parser.feed(data):
                    self.add_event(orjson.loads(payload))

    def add_event(self, event: dict[str, Any]) -> None:
        """Add an event. Raises httpx.ReadError for an error event."""
        if event.get("error"):
            raise httpx.ReadError(f"an error in the stream: {event['error']}")
        if (number := event.get("sequence_number")) is not None:
            self._sequence_numbers.append(number)
        kind, delta = event["type"], event.get("delta")
        if kind in _DELTAS:
            self._text += delta if isinstance(delta, str) else delta.get("text", "") if delta else ""
        elif kind == "message_delta" and delta:
            self.finish_reasons.append(delta["stop_reason"])
        elif kind == "response.completed":
            self._add_response(event["response"])

    def _add_response(self, response: dict[str, Any]) -> None:
        self.finish_reasons.append(response["status"])
        self._final_text = "".join(part["text"] for item in response["output"] for part in item["content"])

    def _add_body(self, answer: dict[str, Any]) -> None:
        if self._request.route == "responses":
            self._add_response(answer)
            self._text = self._final_text or ""
        else:
            self.finish_reasons.append(answer["stop_reason"])
            self._text = "".join(part["text"] for part in answer["content"])

    def outputs(self) -> list[Output]:
        """Return the output of the only choice; these routes send no token ids."""
        return [Output((), self._text)]

    def inconsistency(self) -> str | None:
        """Return what else is wrong: a missing or doubled end, gaps in the numbers, a final text that differs."""
        if len(self.finish_reasons) != 1:
            return f"{len(self.finish_reasons)} ends of one answer"
        numbers = self._sequence_numbers
        if numbers != list(range(len(numbers))):
            return f"events are numbered {numbers[:3]}...{numbers[-3:]}, {len(numbers)} in all"
        if self._final_text is not None and self._final_text != self._text:
            return "the whole response is not what its deltas add up to"
        return None
