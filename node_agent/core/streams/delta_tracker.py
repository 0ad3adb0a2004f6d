"""What a chat's deltas say beside the text: reasoning and tool calls, as its client has them.

Rules kept here:

* what was handed out is a prefix of one account: one reasoning, and for each call a name, an id, and arguments;
* an engine that begins the answer anew repeats all of it, in deltas of any cut: only what is behind the client's end
  is new, and what is repeated must be equal;
* the ids of calls are random, so that those of the first engine stay, and a repeated call's are dropped.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from node_agent.core.openai import chunks

_REASONING = chunks.REASONING
_TEXTUAL = frozenset({"role", "content", "tool_calls", *_REASONING})


@dataclass
class _AppendOnlyText:
    """A text that the client has, and how far the current engine is in it."""

    text: str = ""
    position: int = 0

    def new_part(self, more: str) -> str:
        """What of `more` the client lacks. Raises ValueError where it repeats something else."""
        known = self.text[self.position :]
        overlap = min(len(known), len(more))
        if known[:overlap] != more[:overlap]:
            raise ValueError("the continuation says something else than what was delivered")
        self.position += len(more)
        self.text += more[overlap:]
        return more[overlap:]


@dataclass
class _Call:
    name: str
    is_repeated: bool = True  # by the current engine
    arguments: _AppendOnlyText = field(default_factory=_AppendOnlyText)


class DeltaTracker:
    """One choice's."""

    def __init__(self) -> None:
        self._reasoning = _AppendOnlyText()
        self._calls: dict[int, _Call] = {}

    @property
    def is_empty(self) -> bool:
        """Whether the client has nothing but text."""
        return not (self._reasoning.text or self._calls)

    @property
    def is_caught_up(self) -> bool:
        """Whether the current engine has repeated all that the client has."""
        growing = [self._reasoning, *(call.arguments for call in self._calls.values())]
        return all(one.position == len(one.text) for one in growing) and all(
            call.is_repeated for call in self._calls.values()
        )

    def restart(self) -> None:
        """The next engine begins anew."""
        self._reasoning.position = 0
        for call in self._calls.values():
            call.is_repeated, call.arguments.position = False, 0

    def new_part(self, delta: Mapping[str, Any]) -> dict[str, Any]:
        """What of a delta the client lacks beside its text, as a delta; {} for nothing. Raises ValueError."""
        new: dict[str, Any] = {}
        reasoning = next((delta[key] for key in _REASONING if delta.get(key)), "")
        if more := self._reasoning.new_part(reasoning):
            new |= {key: more for key in _REASONING if delta.get(key)}
        calls = [told for call in delta.get("tool_calls") or () if (told := self._new_call_part(call))]
        if calls:
            new["tool_calls"] = calls
        return new | {key: delta[key] for key in delta if key not in _TEXTUAL and delta[key] is not None}

    def _new_call_part(self, told: Mapping[str, Any]) -> dict[str, Any] | None:
        index, function = int(told.get("index") or 0), told.get("function") or {}
        name, arguments = function.get("name"), function.get("arguments") or ""
        call = self._calls.get(index)
        if call is None or (name and not call.name):
            call = self._calls.setdefault(index, _Call(""))
            call.name = name or ""
            call.arguments.new_part(arguments)
            return dict(told)
        if name:
            if name != call.name:
                raise ValueError("the continuation calls another tool")
            call.is_repeated = True
        more = call.arguments.new_part(arguments)
        return {"index": index, "function": {"arguments": more}} if more else None
