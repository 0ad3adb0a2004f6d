"""Lays out the texts of one or two streams in columns, line by line as they arrive, and marks where each continued.

Pure: texts in, complete lines out. A line is printed once and never again, so that the same output serves terminals,
pipes and recordings.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

Span = tuple[str, str]
"""A text and its style."""

Line = tuple[Span, ...]

SEAM = "»"
"""Marks the place in a text where another node continued it."""

SEAM_STYLE = "bold black on yellow"
CUT_STYLE = "bold white on red"
LEG_STYLES = ("cyan", "green", "magenta", "blue")
"""The styles of a text before its first seam, after it, and so on."""

MAX_LEAD_LINES = 3
"""A column is printed beside an empty one where the other is so many lines behind."""

SEPARATOR = " │ "


class Pane:
    """One column. width: in characters, without the separator."""

    def __init__(self, width: int) -> None:
        self.width = width
        self.lines: deque[Line] = deque()
        self.is_over = False
        self._chars: list[Span] = []
        self._notes: list[Line] = []
        self._legs = 0

    def write(self, text: str) -> None:
        """Add text of the stream, in the style of the present leg."""
        style = LEG_STYLES[self._legs % len(LEG_STYLES)]
        for char in text:
            if char == "\n":
                self._complete(len(self._chars))
                continue
            self._chars.append((char, style))
            if len(self._chars) > self.width:
                self._complete(_last_space(self._chars) or self.width)

    def seam(self, note: str) -> None:
        """Mark that another node continues the text from here. note: printed below the line."""
        self._mark(SEAM, note, SEAM_STYLE, "yellow")
        self._legs += 1

    def cut(self, note: str) -> None:
        """Mark that the text ends here, incomplete. note: printed below the line."""
        self._mark("✂", note, CUT_STYLE, "red")

    def close(self) -> None:
        """Complete the last line: no more text follows."""
        self.is_over = True
        while self._chars or self._notes:
            self._complete(len(self._chars))

    def _mark(self, char: str, note: str, style: str, note_style: str) -> None:
        self._chars.append((char, style))
        self._notes += [((line, note_style),) for line in wrap(f"└ {note}", self.width)]

    def _complete(self, size: int) -> None:
        self.lines.append(_spans(self._chars[:size]))
        self._chars = self._chars[size:]
        while self._chars and self._chars[0][0] == " ":
            del self._chars[0]
        self.lines += self._notes
        self._notes = []


def rows(left: Pane, right: Pane) -> Iterator[tuple[Line, Line]]:
    """Take the rows that can be printed now: two lines, or one where the other column is over or far behind."""
    while left.lines or right.lines:
        waits = (not left.lines and not left.is_over) or (not right.lines and not right.is_over)
        if waits and max(len(left.lines), len(right.lines)) <= MAX_LEAD_LINES:
            return
        yield (left.lines.popleft() if left.lines else ()), (right.lines.popleft() if right.lines else ())


def wrap(text: str, width: int) -> list[str]:
    """Break a text at spaces into lines of at most `width` characters; a longer word is broken anywhere."""
    pane = Pane(width)
    pane.write(text)
    pane.close()
    return ["".join(part for part, _ in line) for line in pane.lines]


def length(line: Line) -> int:
    """Return the number of characters of a line."""
    return sum(len(text) for text, _ in line)


def _last_space(chars: list[Span]) -> int:
    return next((at for at in range(len(chars) - 1, 0, -1) if chars[at][0] == " "), 0)


def _spans(chars: list[Span]) -> Line:
    """Join neighbours of one style."""
    spans: list[Span] = []
    for char, style in chars:
        if spans and spans[-1][1] == style:
            spans[-1] = (spans[-1][0] + char, style)
        else:
            spans.append((char, style))
    return tuple(spans)
