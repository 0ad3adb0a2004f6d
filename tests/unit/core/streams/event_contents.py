"""What a stream of events said, whatever it was cut into and whatever its engines called things."""

from __future__ import annotations

from typing import Any

import orjson

from node_agent.core.openai.sse import SseParser

_NAMES = frozenset({"id", "item_id", "call_id", "signature", "created_at"})
Seen = list[tuple[bytes, dict[str, Any]]]


def seen(out: bytes) -> Seen:
    return [(name, orjson.loads(data)) for name, data in SseParser().feed(out)]


def joined(events: Seen) -> list[Any]:
    """What does not depend on how tokens came, nor on whose random names things have.

    Events without numbers, the texts of neighbours joined, and each name by when it was first told: so two things of
    one name, or one of two, are found.
    """
    told: list[Any] = []
    names: dict[Any, int] = {}
    for _, event in events:
        value = _named({key: event[key] for key in event if key != "sequence_number"}, names)
        delta = value.get("delta")
        text = delta if isinstance(delta, str) else _text_of(delta)
        if delta is None or text is None:
            told.append(value)
            continue
        entries = value.pop("logprobs", [])
        value["delta"] = delta["type"] if isinstance(delta, dict) else ""
        last: list[Any] = told[-1] if isinstance(told[-1], list) else [None]
        if last[0] == value:
            told[-1] = [value, last[1] + text, last[2] + entries]
        else:
            told.append([value, text, entries])
    return told


def _named(value: Any, names: dict[Any, int], key: str = "") -> Any:
    if isinstance(value, dict):
        return {each: _named(value[each], names, each) for each in value}
    if isinstance(value, list):
        return [_named(each, names, key) for each in value]
    if key == "cached_tokens":
        return None  # of the engine that tells it
    return names.setdefault(value, len(names)) if key in _NAMES else value


def _text_of(delta: Any) -> str | None:
    return next((delta[key] for key in ("text", "thinking") if key in delta), None) if isinstance(delta, dict) else None
