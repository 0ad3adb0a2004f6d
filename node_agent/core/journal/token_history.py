"""Record what a client has received of one choice of an answer, and the token ids behind it.

Rules:

* `text` only grows, and is exactly what was delivered;
* `ids` are the token ids that the engine reported for it; they may be ahead of the text, when a character needs more
  ids or a stop string may be forming;
* a *resume point* (ids, text_length) states that decoding the first `ids` ids gives exactly `text_length` characters
  and no partial one. It is set where the engine sent a text with a single id: the detokenizer emits a text only when
  the characters are whole. A chunk of several ids sets none, because the last id may begin a character.

After this node's death another node restores the history from the journal's records (`core/journal/records`) alone.

`core/continuation/requests` explains what resume points are for, and why a partial character must never be one.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate


@dataclass(frozen=True)
class ResumePoint:
    """A place where ids and text agree: decoding the first `ids` ids gives exactly `text_length` characters."""

    ids: int
    text_length: int


_START = ResumePoint(0, 0)
NO_RESUME_POINT = -1
_MAX_TEXT_PARTS = 256
"""Texts of single tokens that are kept before they are joined: each Python string costs fifty bytes of overhead."""


class TokenHistory:
    """The delivered text and the token ids of one choice.

    Args:
        stop_holdback_chars: characters that the engine holds back while a stop string may be forming.
        exposes_token_ids: the client receives the ids too, so that a continuation must repeat them exactly.
    """

    def __init__(self, stop_holdback_chars: int = 0, exposes_token_ids: bool = False) -> None:
        self.prompt_ids: tuple[int, ...] | None = None
        self.ids = array("I")
        self.finish_reason: str | None = None
        self._stop_holdback_chars = stop_holdback_chars
        self._exposes_token_ids = exposes_token_ids
        self._parts: list[str] = []
        self._text_length = 0
        self._position = 0  # characters that the current engine's ids cover; below _text_length after a rewind
        self._expected_ids: list[int] = []  # ids that the client has and the current engine has not repeated yet
        self._point_ids = array("I", (0,))
        self._point_lengths = array("I", (0,))
        self._recorded = 0  # ids that are in records

    @property
    def text(self) -> str:
        """The delivered text."""
        return "".join(self._parts)

    @property
    def text_length(self) -> int:
        """The number of delivered characters."""
        return self._text_length

    def append(self, ids: Sequence[int], text: str) -> tuple[Sequence[int], str]:
        """Add a chunk of the engine. After a rewind the engine repeats what the client has.

        Raises ValueError where the repetition differs, TypeError or OverflowError where an id is invalid; the history
        is unchanged then.

        Returns:
            The ids and the text in the chunk that are new to the client.
        """
        # Both checks come before any change: a continuation that differs must not change the history.
        repeated = self._match_expected(ids) if self._expected_ids else 0
        new = text if self._position == self._text_length else self._new_text(text)
        self.ids.extend(array("I", ids))
        del self._expected_ids[:repeated]
        if text:
            self._position += len(text)
            if len(ids) == 1:
                self._point_ids.append(len(self.ids))
                self._point_lengths.append(self._position + self._stop_holdback_chars)
        if new:
            self._deliver(new)
        return ids[repeated:] if repeated else ids, new

    @property
    def is_caught_up(self) -> bool:
        """True when the current engine has repeated everything that the client has."""
        return self._position == self._text_length and not self._expected_ids

    @property
    def is_recorded(self) -> bool:
        """True when all ids are in records. Ids without a text, for a client that receives no ids, are not yet."""
        return self._recorded == len(self.ids)

    def append_tokens(self, tokens: Sequence[int], texts: Sequence[str]) -> None:
        """Add ids that are in token records (`core/journal/records`), each with its new text.

        Valid only while `is_caught_up` and `is_recorded`. Raises OverflowError where an id is invalid.
        """
        base = self._text_length + self._stop_holdback_chars
        self._point_ids.extend(range(len(self.ids) + 1, len(self.ids) + 1 + len(tokens)))
        self._point_lengths.extend(base + length for length in accumulate(map(len, texts)))
        self.ids.extend(tokens)
        self._recorded = len(self.ids)
        self._deliver("".join(texts))
        self._position = self._text_length

    def _deliver(self, text: str) -> None:
        if len(self._parts) == _MAX_TEXT_PARTS:
            self._parts = ["".join(self._parts)]
        self._parts.append(text)
        self._text_length += len(text)

    def _new_text(self, text: str) -> str:
        known = self.text[self._position :]
        overlap = min(len(known), len(text))
        if known[:overlap] != text[:overlap]:
            raise ValueError("the continuation's text differs from what was delivered")
        return text[overlap:]

    def _match_expected(self, ids: Sequence[int]) -> int:
        overlap = min(len(self._expected_ids), len(ids))
        if list(ids[:overlap]) != self._expected_ids[:overlap]:
            raise ValueError("the continuation's ids differ from what was delivered")
        return overlap

    def last_resume_point(self, max_ids: int | None) -> ResumePoint:
        """Return the last resume point whose text was delivered and that leaves something to generate.

        max_ids: the answer's limit of ids, None for none. At least one id must remain, because no engine accepts a
        request for an answer of no tokens.
        """
        for ids, length in zip(reversed(self._point_ids), reversed(self._point_lengths), strict=True):
            if length <= self._text_length and (max_ids is None or ids < max_ids):
                return ResumePoint(ids, length)
        return _START

    def has_text_after_resume_point(self, max_ids: int | None) -> bool:
        """Return whether the client has text that the last resume point does not cover. max_ids: as there."""
        return self._text_length > self.last_resume_point(max_ids).text_length

    def rewind(self, point: ResumePoint) -> None:
        """Drop the ids after `point`; the delivered text stays, and the engine will repeat it from there."""
        if self._exposes_token_ids:
            self._expected_ids[:0] = self.ids[point.ids :]
        else:
            self._expected_ids.clear()
        self._truncate(point)

    def restart(self) -> list[int]:
        """Drop everything but the text and return the ids: the engine will repeat each, and each is compared."""
        self._expected_ids[:0] = self.ids
        self._truncate(_START)
        return list(self._expected_ids)

    def clear_ids(self) -> None:
        """Drop all ids: the client received none of them, and the next engine may generate others."""
        self._expected_ids.clear()
        self._truncate(_START)

    def _truncate(self, point: ResumePoint) -> None:
        del self.ids[point.ids :]
        self._recorded = min(self._recorded, point.ids)
        while self._point_ids[-1] > point.ids:
            self._point_ids.pop()
            self._point_lengths.pop()
        self._position = point.text_length

    def next_record(self) -> tuple[int, list[int], int]:
        """Return the next record: the position of its first id, its ids, its resume length or NO_RESUME_POINT."""
        start, self._recorded = self._recorded, len(self.ids)
        at_point = self._point_ids[-1] == self._recorded
        return start, self.ids[start:].tolist(), self._point_lengths[-1] if at_point else NO_RESUME_POINT

    def apply_record(self, start: int, ids: Sequence[int], text: str, resume_length: int) -> Sequence[int]:
        """Apply a record that another node wrote; return the ids in it that are new to the client."""
        known = len(self.ids)
        del self.ids[start:]
        while self._point_ids[-1] > start:
            self._point_ids.pop()
            self._point_lengths.pop()
        self.ids.extend(ids)
        self._recorded = len(self.ids)
        if resume_length != NO_RESUME_POINT and self._recorded > self._point_ids[-1]:
            self._point_ids.append(self._recorded)
            self._point_lengths.append(resume_length)
        if text:
            self._deliver(text)
        return ids[max(0, known - start) :]
