"""A stream of any route as events, and what of it is the same in every run of its request."""

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
"""Fields that differ between two runs of one request: names that an engine makes up (of itself, too), and its clock."""

Event = tuple[str, Any]


def body(path: str, text: str, tokens: int, **fields: Any) -> dict[str, Any]:
    """A streaming request with one question."""
    asked: dict[str, Any] = {
        RESPONSES: {"input": text, "max_output_tokens": tokens},
        MESSAGES: {"messages": [{"role": "user", "content": text}], "max_tokens": tokens},
        CHAT: {"messages": [{"role": "user", "content": text}], "max_tokens": tokens},
        COMPLETIONS: {"prompt": text, "max_tokens": tokens},
    }[path]
    return {"model": MODEL, "stream": True, **asked, **fields}


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


def prompt_of(told: Sequence[Event]) -> str:
    (digest,) = [data for name, data in told if name == "synkti-prompt"]
    return str(digest)


def ids_of(told: Sequence[Event]) -> list[int]:
    return [token for name, data in told if name == "synkti-ids" for token in data]


def vllm_events(told: Sequence[Event]) -> list[Event]:
    """Those that vLLM says by itself."""
    return [event for event in told if not event[0].startswith("synkti-")]


def normalized(told: Any, but: Set[str] = frozenset()) -> Any:
    """Without what is random. but: further fields to leave out."""
    if isinstance(told, dict):
        return {name: normalized(value, but) for name, value in told.items() if name not in RANDOM | but}
    return [normalized(one, but) for one in told] if isinstance(told, list | tuple) else told


def recorded() -> dict[str, tuple[str, dict[str, Any], list[Event]]]:
    """By name: the path, the request, and the events of an engine that answered it."""
    requests = json.loads((RECORDED / "requests.json").read_text())
    return {
        name: (path, request, [json.loads(line) for line in (RECORDED / f"{name}.jsonl").read_text().splitlines()])
        for name, (path, request) in requests.items()
    }
