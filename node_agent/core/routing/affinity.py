"""Hash a request's beginning to a key: equal for all turns of one conversation, and hardly ever for two.

A chat begins with its system prompt and its first user message; every later turn repeats both. The system prompt alone
is too little: all conversations of an application share it, and would all belong to one node. (That node's cache would
be warm for it; but so is every other node's after its first conversation.) A plain completion begins with its text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from hashlib import blake2b
from typing import Any

from node_agent.core.routing.hash_ring import KEY_BYTES

MAX_BYTES = 8_192
"""The bytes of a beginning that are hashed: they take ten microseconds, and a later first difference is rare."""

_MAX_PART = 256
"""The hashed characters of a part that is no text, an image's data for example; its size is hashed, too."""


def conversation_key(messages: object) -> int | None:
    """Return the key of a chat's messages; None where there is no readable beginning."""
    return _key(_beginning(messages)) if isinstance(messages, list) else None


def prompt_key(prompt: object) -> int | None:
    """Return the key of a completion's prompt: a text, a list of ids, or several of these: then of the first."""
    if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int):
        prompt = prompt[0]
    if isinstance(prompt, str):
        return _key(iter((prompt[:MAX_BYTES].encode("utf-8", "replace"),))) if prompt else None
    if isinstance(prompt, list) and prompt:
        return _key(iter((repr(prompt[: MAX_BYTES // 8]).encode(),)))
    return None


def session_key(session: str) -> int | None:
    """Return the key of the session that the client names; None for ""."""
    return _key(iter((b"session", session.encode("utf-8", "replace")))) if session else None


def _key(parts: Iterator[bytes]) -> int | None:
    digest, room = blake2b(digest_size=KEY_BYTES), MAX_BYTES
    for part in parts:
        digest.update(b"%d:" % len(part))
        digest.update(part[:room])
        room -= len(part)
        if room <= 0:
            break
    if room == MAX_BYTES:
        return None
    return int.from_bytes(digest.digest(), "little")


def _beginning(messages: list[Any]) -> Iterator[bytes]:
    """Yield the messages' parts up to the first user message, that one included."""
    for message in messages:
        if not isinstance(message, Mapping):
            continue
        role = message.get("role")
        yield str(role).encode("utf-8", "replace")
        yield from _content(message.get("content"))
        if role == "user":
            return


def _content(content: object) -> Iterator[bytes]:
    if isinstance(content, str):
        yield content[:MAX_BYTES].encode("utf-8", "replace")
    elif isinstance(content, list):
        for part in content:
            text = part.get("text") if isinstance(part, Mapping) else None
            if isinstance(text, str):
                yield text[:MAX_BYTES].encode("utf-8", "replace")
            else:
                yield from _media(part)


def _media(part: object) -> Iterator[bytes]:
    """Yield an image's or a sound's URL, or the beginning of its data."""
    if isinstance(part, Mapping):
        for value in part.values():
            inner = value.get("url", value.get("data")) if isinstance(value, Mapping) else value
            if isinstance(inner, str):
                yield b"%d" % len(inner)
                yield inner[:_MAX_PART].encode("utf-8", "replace")
