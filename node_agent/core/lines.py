"""Lines: a stream's journal in writing, one line for each event that its client was sent.

A keeper stores them unread; who takes a stream over reads them all, and makes from them the events that the client
lacks and the journal that the next engine goes on from. So a line says what the event added, not what it looked like:
about thirty bytes for a token, where its event has three hundred.

A line is a JSON list: [choice, place of the first id, ids, text, mark, extra]. The place says where the ids belong:
after a rewind a line may begin before the end of the one in front of it, and replaces what was there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import orjson


@dataclass(frozen=True, slots=True)
class Line:
    """What one event added to its choice, or, with a chunk in `extra`, the event itself.

    mark: the length of the text at the mark that the ids end with, or NO_MARK; extra: None, or what is rare: `frame`
    and `prompt` with the first, `role`, `logprobs`, `reason` and `stop` with the last, `chunk`.
    """

    choice: int
    at: int
    ids: Sequence[int]
    text: str
    mark: int
    extra: dict[str, Any] | None


def write_line(
    choice: int, at: int, ids: Sequence[int], text: str, mark: int, extra: dict[str, Any] | None = None
) -> bytes:
    return orjson.dumps([choice, at, ids, text, mark, extra], option=orjson.OPT_APPEND_NEWLINE)


def plain_line(choice: int, at: int, token: bytes, text: bytes, mark: int) -> bytes:
    """The line of one id and one text that were never parsed: as they stood in JSON, the text without its quotes."""
    return b'[%d,%d,[%b],"%b",%d,null]\n' % (choice, at, token, text, mark)


def read_lines(written: bytes | bytearray) -> Iterator[Line]:
    """Raises ValueError where it is no journal."""
    for number, text in enumerate(bytes(written).splitlines(), start=1):
        try:
            yield Line(*orjson.loads(text))
        except (orjson.JSONDecodeError, TypeError) as error:
            raise ValueError(f"line {number} of the journal cannot be read: {error}") from error
