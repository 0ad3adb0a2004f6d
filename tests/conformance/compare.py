"""Compares two answers to one request as a client sees them: the status, relevant headers, and the body.

In a buffered body every value counts, except for random or momentary ones. In a stream the choices' texts, ends and
logprobs count, the usage, and the shapes of its chunks, not its division into chunks.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

_RANDOM = frozenset({"id", "created", "created_at", "completed_at", "item_id", "call_id", "system_fingerprint"})
_OF_THE_MOMENT = frozenset({"server_load", "signature"})
_HEADERS = ("content-type", "allow", "location", "x-request-id", "retry-after", "endpoint-load-metrics")
_GENERATED = re.compile(r"[0-9a-f]{32}")
_TOLERANCE = 0.002
"""Of a logprob: an engine that computes other requests beside adds float32 numbers in another order."""
_FLOAT = re.compile(r"-?\d+\.\d+(e-?\d+)?")
_ROUTER = re.compile(r"(chatcmpl|cmpl|resp|msg)[-_][0-9a-zA-Z_-]+|0x[0-9a-f]+")


@dataclass(frozen=True)
class HttpAnswer:
    """A response. headers: all, by lower case names."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def is_stream(self) -> bool:
        return self.headers.get("content-type", "").startswith("text/event-stream")


class NearFloat(float):
    """A number that equals others within the tolerance. Rounded numbers would differ on both sides of a boundary."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, float) and math.isclose(self, other, rel_tol=0, abs_tol=_TOLERANCE)

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = None  # type: ignore[assignment] # equal ones have no common hash


@dataclass
class StreamSummary:
    """The content of a stream, independent of its division into chunks.

    shapes: of its first and last chunks; middles: of those between, some of which are missing if vLLM joined its
    outputs; texts, values: by choice; ends: finish reasons, final events and [DONE].
    """

    shapes: set[str] = field(default_factory=set)
    middles: set[str] = field(default_factory=set)
    texts: dict[str, str] = field(default_factory=dict)
    values: dict[str, list[Any]] = field(default_factory=dict)
    usage: list[Any] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    ends: list[Any] = field(default_factory=list)


def differences(stock: HttpAnswer, node: HttpAnswer) -> dict[str, tuple[Any, Any]]:
    """Return the differences by name (status, a header's name, or body): (the engine's value, the node's)."""
    found: dict[str, tuple[Any, Any]] = {}
    if stock.status != node.status:
        found["status"] = (stock.status, node.status)
    for name in _HEADERS:
        one, other = _header(name, stock.headers.get(name)), _header(name, node.headers.get(name))
        if one != other:
            found[name] = (stock.headers.get(name), node.headers.get(name))
    if stock.is_stream and node.is_stream:
        found |= _streams_differ(summarize(stock.body), summarize(node.body))
    elif _body(stock) != _body(node):
        found["body"] = (_body(stock), _body(node))
    return found


def _streams_differ(stock: StreamSummary, node: StreamSummary) -> dict[str, tuple[Any, Any]]:
    found: dict[str, tuple[Any, Any]] = {}
    for part in ("shapes", "middles", "texts", "values", "usage", "names", "ends"):
        theirs, ours = getattr(stock, part), getattr(node, part)
        if part == "middles" and (ours <= theirs or theirs <= ours):
            continue
        if part in ("shapes", "middles"):
            theirs, ours = theirs - ours, ours - theirs
        if ours != theirs:
            found[f"body.{part}"] = (theirs, ours)
    return found


def _header(name: str, value: str | None) -> str | None:
    if value is None:
        return None
    if name == "x-request-id":
        return "generated" if _GENERATED.fullmatch(value) else value
    if name == "location":
        parts = urlsplit(value)
        return f"{parts.path}?{parts.query}"
    if name == "endpoint-load-metrics":
        return "present"
    return value.replace(" ", "").lower()


def _body(answer: HttpAnswer) -> Any:
    try:
        return normalized(json.loads(answer.body))
    except ValueError:
        return answer.body


def normalized(value: Any, key: str = "") -> Any:
    """Return the value with random and momentary values replaced by placeholders."""
    if isinstance(value, dict):
        return {name: normalized(inner, name) for name, inner in value.items()}
    if isinstance(value, list):
        return [normalized(inner) for inner in value]
    if key in _RANDOM and value is not None:
        return type(value).__name__
    if key in _OF_THE_MOMENT:
        return "?"
    if isinstance(value, float):
        return NearFloat(value)
    return _ROUTER.sub("<random>", value) if isinstance(value, str) else value


def summarize(stream: bytes) -> StreamSummary:
    """Parse a stream into its summary."""
    found = StreamSummary()
    for name, data in _events(stream):
        if data == "[DONE]":
            found.ends.append(data)
            continue
        event = json.loads(data)
        if "choices" in event:
            _add_chunk(found, event)
        else:
            _add_event(found, name, event)
    found.ends.sort(key=_without_floats)  # choices end in any order
    return found


def _events(stream: bytes) -> Iterator[tuple[str, str]]:
    for block in stream.decode().split("\n\n"):
        name, data = "", []
        for line in block.split("\n"):
            if line.startswith("event: "):
                name = line.removeprefix("event: ")
            elif line.startswith("data: "):
                data.append(line.removeprefix("data: "))
            elif line:
                name += f"?{line}"  # an id or a comment: never to a stock client
        if data or name:
            yield name, "\n".join(data)


def _add_chunk(found: StreamSummary, chunk: dict[str, Any]) -> None:
    """Add a chunk of chat or plain completions."""
    around = {key: value for key, value in chunk.items() if key not in ("choices", "usage")}
    if not chunk["choices"]:
        found.shapes.add(_shape(around))
        found.usage.append(normalized(chunk.get("usage")))
    for choice in chunk["choices"]:
        index = choice["index"]
        merged = {**choice, **choice.get("delta", {})}
        is_middle = merged.get("finish_reason") is None and "role" not in merged
        (found.middles if is_middle else found.shapes).add(_shape({**around, **merged}))
        for key in ("text", "content", "reasoning", "role"):
            found.texts[f"{index}.{key}"] = found.texts.get(f"{index}.{key}", "") + (merged.get(key) or "")
        for key in ("token_ids", "prompt_token_ids"):
            found.values.setdefault(f"{index}.{key}", []).extend(merged.get(key) or [])
        for key, value in (merged.get("logprobs") or {}).items():
            found.values.setdefault(f"{index}.{key}", []).extend(normalized(value or []))
        if merged.get("finish_reason"):
            found.ends.append(f"{index}: {merged['finish_reason']}, {merged.get('stop_reason')}")


def _add_event(found: StreamSummary, name: str, event: dict[str, Any]) -> None:
    """Add an event of responses or messages, or an error."""
    kind = event.get("type", "")
    if kind.endswith("delta"):
        delta = event.get("delta")
        text = delta if isinstance(delta, str) else json.dumps(normalized(delta))
        if isinstance(delta, dict) and isinstance(delta.get("text"), str):
            text = delta["text"]
        found.texts[kind] = found.texts.get(kind, "") + text
        if kind not in found.names:
            found.names.append(kind)
        return
    found.names.append(f"{name}/{kind}")
    found.ends.append(normalized({key: event[key] for key in event if key != "sequence_number"}))


def _without_floats(value: Any) -> str:
    """Return a key that is the same for values that differ in floats only."""
    return _FLOAT.sub("~", json.dumps(value, sort_keys=True))


def _shape(value: Any) -> str:
    """Return the names and types in a value."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{_shape(inner)}" for key, inner in sorted(value.items())) + "}"
    return type(value).__name__
