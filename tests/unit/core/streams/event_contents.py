"""Compare streams of events by their content, independent of delta sizes and random ids."""

from __future__ import annotations

from typing import Any

import orjson

from node_agent.core.openai.sse import SseParser

_NAMES = frozenset({"id", "item_id", "call_id", "signature", "created_at"})
ParsedEvents = list[tuple[bytes, dict[str, Any]]]


def parse_events(out: bytes) -> ParsedEvents:
    """Parse the events in `out`."""
    return [(name, orjson.loads(data)) for name, data in SseParser().feed(out)]


def normalized(events: ParsedEvents) -> list[Any]:
    """Return the content of events, independent of delta sizes and of random ids.

    Drops sequence numbers, joins adjacent texts, and replaces each random id by its order of appearance: so a shared or
    a split id is found.
    """
    contents: list[Any] = []
    names: dict[Any, int] = {}
    for _, event in events:
        value = _with_stable_names({key: event[key] for key in event if key != "sequence_number"}, names)
        delta = value.get("delta")
        text = delta if isinstance(delta, str) else _text_of(delta)
        if delta is None or text is None:
            contents.append(value)
            continue
        entries = value.pop("logprobs", [])
        value["delta"] = delta["type"] if isinstance(delta, dict) else ""
        last: list[Any] = contents[-1] if isinstance(contents[-1], list) else [None]
        if last[0] == value:
            contents[-1] = [value, last[1] + text, last[2] + entries]
        else:
            contents.append([value, text, entries])
    return contents


def _with_stable_names(value: Any, names: dict[Any, int], key: str = "") -> Any:
    if isinstance(value, dict):
        return {each: _with_stable_names(value[each], names, each) for each in value}
    if isinstance(value, list):
        return [_with_stable_names(each, names, key) for each in value]
    if key == "cached_tokens":
        return None  # differs between engines
    return names.setdefault(value, len(names)) if key in _NAMES else value


def _text_of(delta: Any) -> str | None:
    return next((delta[key] for key in ("text", "thinking") if key in delta), None) if isinstance(delta, dict) else None
