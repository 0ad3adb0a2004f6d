"""Computes log probabilities, in vLLM's two shapes. Pure.

A value is a function of the token and its position in prompt and answer, so that a continued answer has the values of
an uninterrupted one. Rules kept from vLLM 0.32 (v1/engine/logprobs.py, entrypoints):

* a token inside a character has an empty text, and the one that completes it has the character;
* `text_offset` adds up the texts of the tokens, special ones included, not the text that was sent;
* the model's own token comes first, and is one of the top k where it is the likeliest, as here it always is;
* the first token of a prompt has no values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from local.fake_engine import model

_LETTERS = range(ord("a"), ord("z") + 1)
_NAMES = {model.EOS: "<eos>", model.BEGIN: "<begin>"}
_LOGPROB_STEP = 0.25


@dataclass(frozen=True)
class ScoredToken:
    """A token's text and values. top: (text, value), its own first; logprob: None for a prompt's first token."""

    text: str
    logprob: float | None
    top: tuple[tuple[str, float], ...]


class Scorer:
    """Scores tokens in order. place: position of the first in prompt and answer; count: the number of top tokens."""

    def __init__(self, place: int, count: int) -> None:
        self._position = place
        self._count = count
        self._incomplete = b""  # bytes of an incomplete character

    def score(self, token: int, of_prompt: bool = False) -> ScoredToken:
        """Score the next token. of_prompt: it was given, not generated, so that other tokens are the likeliest."""
        text, place = self._text(token), self._position
        self._position += 1
        if place == 0:
            return ScoredToken(text, None, ())
        own = -(1 + (token * 31 + place * 17) % 63) / 256
        # A prompt's token is not the likeliest one: the top k come after it.
        others = self._count if of_prompt else max(0, self._count - 1)
        letters = [letter for letter in _LETTERS if letter != token]
        start = token + place
        chosen = [chr(letters[(start + rank) % len(letters)]) for rank in range(others)]
        return ScoredToken(
            text,
            own,
            ((text, own), *((other, own - _LOGPROB_STEP * rank) for rank, other in enumerate(chosen, start=1))),
        )

    def _text(self, token: int) -> str:
        piece = model.token_bytes(token)
        if not piece:
            return _NAMES.get(token, f"<{token}>")
        self._incomplete = self._incomplete + piece if piece[0] >= 0x80 else piece
        text = self._incomplete.decode(errors="replace")
        if text.endswith("\ufffd"):
            return ""
        self._incomplete = b""
        return text


def chat_logprobs(tokens: Sequence[ScoredToken], count: int) -> dict[str, Any]:
    """Return a chat choice's `logprobs`. count: the number of top tokens of each."""
    return {"content": [{**_entry(t.text, t.logprob), "top_logprobs": _entries(t, count)} for t in tokens]}


def _entries(token: ScoredToken, count: int) -> list[dict[str, Any]]:
    return [_entry(text, value) for text, value in token.top[:count]]


def _entry(text: str, value: float | None) -> dict[str, Any]:
    return {"token": text, "logprob": value, "bytes": list(text.encode())}


def completion_logprobs(tokens: Sequence[ScoredToken], offset: int) -> dict[str, Any]:
    """Return a completion's `logprobs`. offset: of the first token in the text."""
    offsets = [offset + sum(len(t.text) for t in tokens[:at]) for at in range(len(tokens))]
    return {
        "text_offset": offsets,
        "token_logprobs": [t.logprob for t in tokens],
        "tokens": [t.text for t in tokens],
        "top_logprobs": [None if t.logprob is None else dict(t.top) for t in tokens],
    }
