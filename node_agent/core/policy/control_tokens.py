"""Find a multimodal model's control tokens in the texts of a request.

The tokenizer of such a model reads `<|image_pad|>` in a text as the token that stands for an image. vLLM then looks for
an image that nobody sent (CVE-2026-44222), or binds a real one to the wrong place (vLLM issue 57740). Requests with
such a text, or with such a token's id, are refused. A model for texts only has no such tokens.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from node_agent.contract.errors import RequestRejected

_ID_FIELD = re.compile(r"(?:\w+_)?(?:image|video|audio|vision|speech|img|boi|eoi|boa|eoa)\w*_token_(?:id|index)")
_MAX_LEVELS = 3
_MAX_TOKENS = 256
_MAX_DIGITS = 9


@dataclass(frozen=True)
class ControlTokens:
    """The control tokens of one model. texts: as the tokenizer has them; ids: also of those without a text."""

    texts: frozenset[str] = frozenset()
    ids: frozenset[int] = frozenset()


NO_TOKENS = ControlTokens()


def control_token_ids(config: Any) -> frozenset[int]:
    """Return the ids of a model's control tokens for media. config: its config.json, of any type."""
    return frozenset(_ids(config, _MAX_LEVELS))


def _ids(config: Any, levels: int) -> Iterator[int]:
    if not isinstance(config, dict) or not levels:
        return
    for name, value in config.items():
        if type(value) is int and _ID_FIELD.fullmatch(name):
            yield value
        yield from _ids(value, levels - 1)


def control_token_texts(ids: frozenset[int], tokenizers: Mapping[str, Any]) -> frozenset[str]:
    """Return the texts of tokens, as far as they are known.

    ids: the tokens'.
    tokenizers: tokenizer_config.json, added_tokens.json and tokenizer.json by name, as far as they exist.
    """
    found: dict[int, str] = {}
    for token_id, text in _added_tokens(tokenizers):
        if token_id in ids and text:
            found.setdefault(token_id, text)
    return frozenset(list(found.values())[:_MAX_TOKENS])


def _added_tokens(tokenizers: Mapping[str, Any]) -> Iterator[tuple[int, str]]:
    """Yield id and text of every added token. Values of other types are left out."""
    for text, token_id in _object(tokenizers.get("added_tokens.json")).items():
        if isinstance(token_id, int):
            yield token_id, text
    config = _object(tokenizers.get("tokenizer_config.json"))
    for number, token in _object(config.get("added_tokens_decoder")).items():
        content = _object(token).get("content")
        if number.isascii() and number.isdigit() and len(number) <= _MAX_DIGITS and isinstance(content, str):
            yield int(number), content
    tokens = _object(tokenizers.get("tokenizer.json")).get("added_tokens")
    for token in tokens if isinstance(tokens, list) else ():
        added, content = _object(token).get("id"), _object(token).get("content")
        if isinstance(added, int) and isinstance(content, str):
            yield added, content


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


class ControlTokenRule:
    """The rule that no text of a request contains a control token."""

    def __init__(self, tokens: ControlTokens) -> None:
        self._ids = tokens.ids
        self._pattern = re.compile("|".join(map(re.escape, sorted(tokens.texts)))) if tokens.texts else None
        self.is_needed = bool(tokens.texts or tokens.ids)

    def check(self, body: Mapping[str, Any]) -> None:
        """Check all texts of a request, and the ids of its prompts. Raises RequestRejected (400)."""
        for name, value in body.items():
            if self._pattern is not None:
                for text in _texts(value):
                    if (found := self._pattern.search(text)) is not None:
                        raise _refused(repr(found[0]), name)
            if name in ("prompt", "input", "query", "items"):
                self._check_ids(value, name)

    def _check_ids(self, value: Any, name: str) -> None:
        for ids in [value, *(value if isinstance(value, list) else ())]:
            if isinstance(ids, list):
                used = self._ids.intersection(each for each in ids if isinstance(each, (int, float)))
                if used:
                    raise _refused(f"the id {int(min(used))}", name)


def _texts(value: Any) -> Iterator[str]:
    """Yield all texts in a JSON value, names included, and the texts of a list's neighbours joined.

    A chat template may write the parts of a message without anything between them.
    """
    pending = [value]
    while pending:
        each = pending.pop()
        if isinstance(each, str):
            yield each
        elif isinstance(each, dict):
            yield from each
            pending += each.values()
        elif isinstance(each, list):
            pending += each
            parts = [part if isinstance(part, str) else _object(part).get("text") for part in each]
            if len(parts) > 1:
                yield "".join(part for part in parts if isinstance(part, str))


def _refused(what: str, param: str) -> RequestRejected:
    message = f"{what} is a control token of this model for media, and may not be in a prompt; send media as parts."
    return RequestRejected(400, "control_token", message, param)
