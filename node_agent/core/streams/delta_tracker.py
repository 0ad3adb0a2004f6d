"""Track what a client has of a chat's reasoning and tool calls, and splice a repetition of them.

Rules:

* the client has a prefix of one answer: one reasoning, and for each call a name, an id, and arguments;
* an engine that restarts the answer repeats all of it, in deltas of any size: only what follows the client's part is
  new, and what is repeated must be equal;
* the ids of calls are random, so those of the first engine stay, and those of a repeated call are dropped.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from node_agent.core.openai import chunks

_REASONING = chunks.REASONING
_TRACKED_FIELDS = frozenset({"role", "content", "tool_calls", *_REASONING})


@dataclass
class _AppendOnlyText:
    """A text that the client has, and the current engine's position in it."""

    text: str = ""
    position: int = 0

    def new_part(self, part: str) -> str:
        """Add the engine's next part; return what the client lacks of it. Raises ValueError where it differs."""
        known = self.text[self.position :]
        overlap = min(len(known), len(part))
        if known[:overlap] != part[:overlap]:
            raise ValueError("the continuation differs from what was delivered")
        self.position += len(part)
        self.text += part[overlap:]
        return part[overlap:]


@dataclass
class _Call:
    name: str
    is_repeated: bool = True  # the current engine has sent its name
    arguments: _AppendOnlyText = field(default_factory=_AppendOnlyText)


class DeltaTracker:
    """The reasoning and tool calls of one choice."""

    def __init__(self) -> None:
        self._reasoning = _AppendOnlyText()
        self._calls: dict[int, _Call] = {}

    @property
    def is_empty(self) -> bool:
        """True when the client has nothing but text."""
        return not (self._reasoning.text or self._calls)

    @property
    def is_caught_up(self) -> bool:
        """True when the current engine has repeated everything that the client has."""
        texts = [self._reasoning, *(call.arguments for call in self._calls.values())]
        return all(text.position == len(text.text) for text in texts) and all(
            call.is_repeated for call in self._calls.values()
        )

    def restart(self) -> None:
        """Start the next engine at the beginning of the answer."""
        self._reasoning.position = 0
        for call in self._calls.values():
            call.is_repeated, call.arguments.position = False, 0

    def new_part(self, delta: Mapping[str, Any]) -> dict[str, Any]:
        """Return what the client lacks of a delta beside its text, as a delta; {} for nothing. Raises ValueError."""
        new: dict[str, Any] = {}
        reasoning = next((delta[key] for key in _REASONING if delta.get(key)), "")
        if part := self._reasoning.new_part(reasoning):
            new |= {key: part for key in _REASONING if delta.get(key)}
        calls = [call_part for call in delta.get("tool_calls") or () if (call_part := self._new_call_part(call))]
        if calls:
            new["tool_calls"] = calls
        return new | {key: delta[key] for key in delta if key not in _TRACKED_FIELDS and delta[key] is not None}

    def _new_call_part(self, delta: Mapping[str, Any]) -> dict[str, Any] | None:
        index, function = int(delta.get("index") or 0), delta.get("function") or {}
        name, arguments = function.get("name"), function.get("arguments") or ""
        call = self._calls.get(index)
        if call is None or (name and not call.name):
            call = self._calls.setdefault(index, _Call(""))
            call.name = name or ""
            call.arguments.new_part(arguments)
            return dict(delta)
        if name:
            if name != call.name:
                raise ValueError("the continuation calls another tool")
            call.is_repeated = True
        part = call.arguments.new_part(arguments)
        return {"index": index, "function": {"arguments": part}} if part else None
