"""Lines: a stream's journal in writing, one line for each event that its client was sent.

A keeper stores them unread; who takes a stream over reads them all, and makes from them the events that the client
lacks and the journal that the next engine goes on from. So a line says what the event added, not what it looked like.
There are two kinds:

    0 345  word                            plain: choice, id and text, of an event that has nothing else; the text as
                                           it stood in JSON, free of quotes and escapes
    [0, 12, [345], " word", 67, null]      full: choice, place of the first id, ids, text, mark, extra

The place says where the ids belong: after a rewind a line may begin before the end of the one in front of it, and
replaces what was there. A plain line belongs behind the last, and a mark ends it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import orjson


class TokenRecord(NamedTuple):
    """One id, and the text that came with it."""

    choice: int
    token: int
    text: str


class Record(NamedTuple):
    """What one event added to its choice, or, with a chunk in `extra`, the event itself.

    mark: the length of the text at the mark that the ids end with, or NO_MARK; extra: None, or what is rare: `frame`,
    `echoes` and `prompt` with the first, `role`, `logprobs`, `reason` and `stop` with the last, `chunk`.
    """

    choice: int
    at: int
    ids: Sequence[int]
    text: str
    resume_length: int
    extra: dict[str, Any] | None


def encode_record(
    choice: int, at: int, ids: Sequence[int], text: str, mark: int, extra: dict[str, Any] | None = None
) -> bytes:
    return orjson.dumps([choice, at, ids, text, mark, extra], option=orjson.OPT_APPEND_NEWLINE)


def read_records(written: bytes | bytearray) -> Iterator[Record | TokenRecord]:
    """Raises ValueError where it is no journal."""
    for number, line in enumerate(bytes(written).split(b"\n"), start=1):
        if not line:
            continue
        try:
            yield Record(*orjson.loads(line)) if line.startswith(b"[") else parse_token_record(line)
        except (orjson.JSONDecodeError, ValueError, TypeError) as error:
            raise ValueError(f"line {number} of the journal cannot be read: {error}") from error


def parse_token_record(line: bytes) -> TokenRecord:
    """Raises ValueError."""
    choice, token, text = line.split(b" ", 2)
    return TokenRecord(int(choice), int(token), text.decode())


def parse_token_records(lines: bytes | bytearray) -> tuple[list[int], list[str]]:
    """The ids and the texts of lines that are all plain and of one choice. Raises ValueError."""
    parts = [line.split(" ", 2) for line in lines.decode().split("\n")[:-1]]
    if any(len(part) != 3 for part in parts):
        raise ValueError("a line that is not plain")
    return [int(part[1]) for part in parts], [part[2] for part in parts]
