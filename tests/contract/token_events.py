"""Reads a stream of any route as events, and removes the fields that differ between two runs of its request."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence, Set
from pathlib import Path
from typing import Any

import httpx
import orjson

from node_agent.core.openai.sse import SseParser
from tests.engines import MODEL, Engine

RECORDED = Path(__file__).parents[1] / "unit" / "core" / "streams" / "data"
RESPONSES, MESSAGES, CHAT, COMPLETIONS = "/v1/responses", "/v1/messages", "/v1/chat/completions", "/v1/completions"

RANDOM = frozenset({"id", "item_id", "call_id", "created_at", "created", "signature", "system_fingerprint"})
"""Fields that differ between two runs of one request: generated ids, the engine's own name, and its clock."""

Event = tuple[str, Any]


def body(path: str, text: str, tokens: int, **fields: Any) -> dict[str, Any]:
    """Return a streaming request with one prompt."""
    own: dict[str, Any] = {
        RESPONSES: {"input": text, "max_output_tokens": tokens},
        MESSAGES: {"messages": [{"role": "user", "content": text}], "max_tokens": tokens},
        CHAT: {"messages": [{"role": "user", "content": text}], "max_tokens": tokens},
        COMPLETIONS: {"prompt": text, "max_tokens": tokens},
    }[path]
    return {"model": MODEL, "stream": True, **own, **fields}


def with_token_ids(**arguments: Any) -> dict[str, Any]:
    return {"vllm_xargs": {"synkti_tell_ids": 1, **arguments}}


def resuming(ids: Sequence[int]) -> dict[str, Any]:
    return with_token_ids(synkti_resume_ids=list(ids))


def events(engine: Engine, path: str, request: dict[str, Any]) -> list[Event]:
    response = httpx.post(engine.url + path, json=request, timeout=120)
    assert response.status_code == 200, response.text
    return list(_read(response.content))


def _read(raw: bytes) -> Iterator[Event]:
    for name, data in SseParser().feed(raw):
        yield name.decode(), "[DONE]" if data == b"[DONE]" else orjson.loads(data)


def prompt_of(stream: Sequence[Event]) -> str:
    (digest,) = [data for name, data in stream if name == "synkti-prompt"]
    return str(digest)


def ids_of(stream: Sequence[Event]) -> list[int]:
    return [token for name, data in stream if name == "synkti-ids" for token in data]


def vllm_events(stream: Sequence[Event]) -> list[Event]:
    """Return the events that vLLM emits without the plug-in."""
    return [event for event in stream if not event[0].startswith("synkti-")]


def normalized(value: Any, but: Set[str] = frozenset()) -> Any:
    """Return the value without random fields. but: further fields to remove."""
    if isinstance(value, dict):
        return {name: normalized(inner, but) for name, inner in value.items() if name not in RANDOM | but}
    return [normalized(one, but) for one in value] if isinstance(value, list | tuple) else value


def recorded() -> dict[str, tuple[str, dict[str, Any], list[Event]]]:
    """Return the recordings by name: path, request, and the events of the engine's answer."""
    requests = json.loads((RECORDED / "requests.json").read_text())
    return {
        name: (path, request, [json.loads(line) for line in (RECORDED / f"{name}.jsonl").read_text().splitlines()])
        for name, (path, request) in requests.items()
    }
