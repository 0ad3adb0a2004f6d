"""The journal: the account of what one client has received of one answer, and of the ids behind it.

Rules kept here:

* `text` only grows, and is exactly what was delivered;
* `ids` are the token ids that the engine reported for it; they may be ahead of the text, when a character needs more
  ids or a stop string may be forming;
* a *mark* (ids, length) says that decoding the first `ids` ids gives exactly `length` characters and no half one. It
  is taken where the engine sent a text along with a single id: its detokenizer emits a text only when the characters
  are whole. A chunk of several ids is no mark, because the last of them may begin a character.

Whoever goes on with the stream after this node's death knows it from its lines (`core/journal/records`) alone.

What a mark is needed for, and why a half character must never be one: `core/continuation/requests`.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate


@dataclass(frozen=True)
class ResumePoint:
    """Decoding the first `ids` ids gives exactly `length` characters."""

    ids: int
    text_length: int


_START = ResumePoint(0, 0)
NO_RESUME_POINT = -1
_MAX_TEXT_PARTS = 256
"""Texts of single tokens, before they are joined: a Python string costs fifty bytes on top of its own."""


class TokenHistory:
    """One choice of one stream. `held_back`: the characters that the engine keeps back (see Generation).

    told_ids: whether the client gets the ids too, so that a continuation must repeat them exactly.
    """

    def __init__(self, held_back: int = 0, told_ids: bool = False) -> None:
        self.prompt_ids: tuple[int, ...] | None = None
        self.ids = array("I")
        self.finish_reason: str | None = None
        self._stop_holdback_chars = held_back
        self._exposes_token_ids = told_ids
        self._parts: list[str] = []
        self._text_length = 0
        self._position = 0  # characters that the current engine's ids account for; behind _length after a rewind
        self._expected_ids: list[int] = []  # ids that the client has and the current engine has yet to repeat
        self._point_ids = array("I", (0,))
        self._point_lengths = array("I", (0,))
        self._recorded = 0  # ids that are in lines already

    @property
    def text(self) -> str:
        return "".join(self._parts)

    @property
    def text_length(self) -> int:
        """Delivered characters."""
        return self._text_length

    def append(self, ids: Sequence[int], text: str) -> tuple[Sequence[int], str]:
        """Account for a chunk of the engine; returns the ids and the text in it that are new to the client.

        After a rewind the engine repeats what the client has. Raises ValueError where it repeats something else,
        TypeError or OverflowError where the ids are none.
        """
        # Both checks come before any change: a continuation that differs must leave the account as it was.
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
        """Whether the current engine is where the client is: it has nothing to repeat any more."""
        return self._position == self._text_length and not self._expected_ids

    @property
    def is_recorded(self) -> bool:
        """Whether all ids are in lines: those that came without a text, to a client that is told none, are not yet."""
        return self._recorded == len(self.ids)

    def append_tokens(self, tokens: Sequence[int], texts: Sequence[str]) -> None:
        """As `append` for ids of which each came with a new text, and that are in plain lines (`core/journal/records`).

        Only while the journal is level and written. Raises OverflowError where one is no id.
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
        """The furthest mark whose text was all delivered and that leaves something to generate.

        max_ids: the answer's limit of ids, None for none. At least one id must be left, because an engine cannot
        be asked for an answer of no tokens.
        """
        for ids, length in zip(reversed(self._point_ids), reversed(self._point_lengths), strict=True):
            if length <= self._text_length and (max_ids is None or ids < max_ids):
                return ResumePoint(ids, length)
        return _START

    def rewind(self, mark: ResumePoint) -> None:
        """Forget the ids after `mark`; the delivered text stays, and the engine will repeat it from there."""
        if self._exposes_token_ids:
            self._expected_ids[:0] = self.ids[mark.ids :]
        else:
            self._expected_ids.clear()
        self._truncate(mark)

    def restart(self) -> list[int]:
        """Forget everything but the text: the engine will repeat every id, and each is compared. Returns the ids."""
        self._expected_ids[:0] = self.ids
        self._truncate(_START)
        return list(self._expected_ids)

    def clear_ids(self) -> None:
        """Forget all ids: the client heard of none, and the next engine may say others."""
        self._expected_ids.clear()
        self._truncate(_START)

    def _truncate(self, mark: ResumePoint) -> None:
        del self.ids[mark.ids :]
        self._recorded = min(self._recorded, mark.ids)
        while self._point_ids[-1] > mark.ids:
            self._point_ids.pop()
            self._point_lengths.pop()
        self._position = mark.text_length

    def next_record(self) -> tuple[int, list[int], int]:
        """What the next line has to say: (place of its first id, ids, length of the mark at its end or NO_MARK)."""
        at, self._recorded = self._recorded, len(self.ids)
        marked = self._point_ids[-1] == self._recorded
        return at, self.ids[at:].tolist(), self._point_lengths[-1] if marked else NO_RESUME_POINT

    def apply_record(self, at: int, ids: Sequence[int], text: str, mark: int) -> Sequence[int]:
        """Account for a line of this journal that someone else wrote; the ids in it that are new to the client."""
        known = len(self.ids)
        del self.ids[at:]
        while self._point_ids[-1] > at:
            self._point_ids.pop()
            self._point_lengths.pop()
        self.ids.extend(ids)
        self._recorded = len(self.ids)
        if mark != NO_RESUME_POINT and self._recorded > self._point_ids[-1]:
            self._point_ids.append(self._recorded)
            self._point_lengths.append(mark)
        if text:
            self._deliver(text)
        return ids[max(0, known - at) :]
