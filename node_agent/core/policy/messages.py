"""Decide what the messages of a request may contain: texts, calls of tools, and media as far as they are allowed.

One walk reads the messages of all routes: OpenAI's chats and responses, Anthropic's messages, and those of vLLM's
routes for embeddings and scores. It only enters the places where vLLM looks for content (`content`, `output`, `tool`):
what a tool was called with is data of the client, whatever its keys.

A part is judged by its type *and* by its keys, because vLLM infers a missing type from them. A key that vLLM does not
know is left out of a text: vLLM would pass it to the chat template.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from node_agent.contract.errors import RequestRejected
from node_agent.core.policy.fields import FieldRules
from node_agent.core.policy.media import MediaRules

_TEXTS = frozenset({"text", "input_text", "output_text", "refusal", "thinking", "summary_text", "reasoning_text"})
_PLAIN_KEYS = frozenset({"role", "content", "name"})
_TEXT_KEYS = frozenset({"type", "text", "refusal", "thinking", "closed", "signature", "annotations", "logprobs"})
_OTHER_PARTS = frozenset(
    {"tool_use", "tool_result", "tool_reference", "tool_addition", "tool_removal", "redacted_thinking"}
)
_URLS = ("image_url", "audio_url", "video_url")
_TENSORS = ("image_embeds", "audio_embeds", "video_embeds", "prompt_embeds")
_NEVER = frozenset({"image_pil", "file_data", "file_url", "file_id", "input_file", "file", "document"})
"""Parts that vLLM reads from no client, or does not read."""

_MEDIA_KEYS = frozenset(_URLS).union(_TENSORS, _NEVER, ("input_audio", "source", "uuid"))
_MEDIA_TYPES = _MEDIA_KEYS | {"image", "input_image"}


class MessageRules:
    """The rules for the messages of requests."""

    def __init__(self, fields: FieldRules, media: MediaRules) -> None:
        self._fields = fields
        self._media = media

    def check(self, value: Any, param: str, on_tools: Callable[[Any, str], None]) -> int:
        """Check a conversation, a list of them, or a text; leave out unknown keys of its texts, in place.

        Raises RequestRejected (400) for media or parts that are not allowed.

        value: of any type: an engine refuses what is no conversation.
        param: the field's name.
        on_tools: is called with each list of tools in it, and the list's place.

        Returns:
            The characters of media in it.
        """
        if isinstance(value, str):
            return 0
        media, pending = 0, [value]
        while pending:
            each = pending.pop()
            if isinstance(each, list):
                pending += [inner for inner in each if isinstance(inner, (dict, list)) and not _is_plain(inner)]
            elif isinstance(each, dict):
                media += self._check_part(each, param, on_tools)
                for name in ("content", "output"):
                    inner = each.get(name)
                    if isinstance(inner, (dict, list)):
                        pending.append(inner)
        return media

    def _check_part(self, part: dict[str, Any], param: str, on_tools: Callable[[Any, str], None]) -> int:
        """Check a message or a part of one; return the characters of its media."""
        kind = part.get("type")
        if "tools" in part:  # a developer's message
            on_tools(part["tools"], f"{param}.tools")
        if isinstance(kind, str):
            if kind in _TEXTS:
                _leave_out_unknown(part)
                return 0
            if kind in _MEDIA_TYPES:
                return self._check_media(part, f"{param}.{kind}")
            if "tool" in part and kind in _OTHER_PARTS:
                _check_tool_change(part["tool"], param, on_tools)
            elif kind not in _OTHER_PARTS and "role" not in part and "content" not in part and not _is_item(kind):
                raise _unknown(f"A part of the type {kind[:100]!r} is not known here", param)
        elif kind is not None:
            raise _unknown("The type of a part is a text", param)
        return self._check_media(part, param) if not part.keys().isdisjoint(_MEDIA_KEYS) else 0

    def _check_media(self, part: dict[str, Any], param: str) -> int:
        if part.get("uuid") is not None:
            self._fields.check_guarded("uuid", f"{param}.uuid")
        for name in _TENSORS:
            if name in part or part.get("type") == name:
                self._fields.check_guarded(name, param)
        if part.get("type") in _NEVER or any(part[name] is not None for name in part.keys() & _NEVER):
            raise _unknown("Files are not known here", param)
        size = 0
        for name in _URLS:
            if part.get(name) is not None:
                url = part[name]
                size += self._media.check_url(url.get("url") if isinstance(url, dict) else url, param)
        for name in ("input_audio", "source"):
            if part.get(name) is not None:
                size += self._media.check_source(part[name], param)
        return size


def _is_plain(message: dict[str, Any] | list[Any]) -> bool:
    """Return whether it is a message of one text: of a long conversation nearly all are."""
    return isinstance(message, dict) and isinstance(message.get("content"), str) and message.keys() <= _PLAIN_KEYS


def _leave_out_unknown(part: dict[str, Any]) -> None:
    if part.keys() <= _TEXT_KEYS:
        return
    for name in part.keys() - _TEXT_KEYS:
        del part[name]


_ITEM_SUFFIXES = ("_call", "_call_output", "_reference", "_approval_request", "_approval_response", "_list_tools")


def _is_item(kind: str) -> bool:
    """Return whether it is a type of the Responses API's items."""
    return kind in ("message", "reasoning", "compaction", "function") or kind.endswith(_ITEM_SUFFIXES)


def _check_tool_change(tool: Any, param: str, on_tools: Callable[[Any, str], None]) -> None:
    definition = tool.get("definition") if isinstance(tool, dict) else None
    if isinstance(definition, dict):
        on_tools([definition], f"{param}.tool.definition")


def _unknown(message: str, param: str) -> RequestRejected:
    return RequestRejected(400, "content_not_allowed", f"{message}; see docs/compatibility.md.", param)
