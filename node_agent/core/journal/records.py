"""Encode and parse the records of a stream's journal: one line for each event that the client was sent.

A replica stores records without parsing them. The node that takes a stream over parses them all, and derives the events
that the client lacks and the history that the next engine continues from. So a record states what the event added, not
how it was formatted. There are two kinds:

    0 345  word                            token record: choice, id and text, of an event that has nothing else; the
                                           text as it stood in JSON, without quotes and escapes
    [0, 12, [345], " word", 67, null]      full record: choice, position of the first id, ids, text, resume length,
                                           extra

After a rewind a record may start before the end of the previous one, and replaces what was there. A token record
continues after the last id, and a resume point is at its end.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import orjson


class TokenRecord(NamedTuple):
    """One id of a choice, and the text that came with it."""

    choice: int
    token: int
    text: str


class Record(NamedTuple):
    """What one event added to its choice, or, with a chunk in `extra`, the event itself."""

    choice: int
    at: int
    """Position of the first id."""
    ids: Sequence[int]
    text: str
    resume_length: int
    """Length of the text at the resume point that the ids end with, or NO_RESUME_POINT."""
    extra: dict[str, Any] | None
    """None, or rare fields: `frame`, `echoes` and `prompt` with the first event; `role`; `logprobs`; `reason` and
    `stop` with the last; `chunk`."""


def encode_record(
    choice: int, at: int, ids: Sequence[int], text: str, resume_length: int, extra: dict[str, Any] | None = None
) -> bytes:
    """Encode one full record, with its line end."""
    return orjson.dumps([choice, at, ids, text, resume_length, extra], option=orjson.OPT_APPEND_NEWLINE)


def read_records(journal: bytes | bytearray) -> Iterator[Record | TokenRecord]:
    """Parse a journal. Raises ValueError where it is none."""
    for number, line in enumerate(bytes(journal).split(b"\n"), start=1):
        if not line:
            continue
        try:
            yield Record(*orjson.loads(line)) if line.startswith(b"[") else _parse_token_record(line)
        except (orjson.JSONDecodeError, ValueError, TypeError) as error:
            raise ValueError(f"line {number} of the journal cannot be read: {error}") from error


def _parse_token_record(line: bytes) -> TokenRecord:
    """Parse one token record. Raises ValueError."""
    choice, token, text = line.split(b" ", 2)
    return TokenRecord(int(choice), int(token), text.decode())


def parse_token_records(lines: bytes | bytearray) -> tuple[list[int], list[str]]:
    """Parse token records of one choice into their ids and their texts. Raises ValueError."""
    parts = [line.split(" ", 2) for line in lines.decode().split("\n")[:-1]]
    if any(len(part) != 3 for part in parts):
        raise ValueError("a line that is no token record")
    return [int(part[1]) for part in parts], [part[2] for part in parts]
