"""Chunks that differ from the one before only in their text and their id: nearly all chunks of nearly all streams.

What an engine says of one token it says of the next in the same bytes around it. A template is learned from an event
that was read in full, and from what the client was sent for it; the next one is then compared, not parsed, and the
client's is put together, not dumped. What does not match to the byte is read in full, as if there were no templates.

Rules kept here:

* between the known bytes there is a text without quotes, escapes and line ends, and one number: nothing else fits;
* an event with anything beside them (a finish_reason, logprobs, a usage) is no example and never matches one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

_MAX_DIGITS = 9
_TEXT_KEYS = (b'"content":"', b'"text":"')
_DATA, _END = b"data: ", b"\n\n"


Matcher = Callable[[bytes], "tuple[bytes, bytes, bytes] | None"]
"""An engine's event -> its id and its text as they stand there, and what the client is shown behind its number.

None where the event is another, or more than one.
"""


@dataclass(frozen=True)
class ChunkTemplate:
    """An engine's event is head + text + middle + id + tail; the client's is its number + before + text + behind."""

    head: bytes
    middle: bytes
    tail: bytes
    before: bytes
    behind: bytes

    def matcher(self) -> Matcher:
        """A function, because it is called for every token: what it needs is bound once."""
        head, middle, tail, before, behind = self.head, self.middle, self.tail, self.before, self.behind
        at, to = len(head), -len(tail)

        def compare(event: bytes) -> tuple[bytes, bytes, bytes] | None:
            if not (event.startswith(head) and event.endswith(tail)):
                return None
            text, found, number = event[at:to].rpartition(middle)
            if not (found and text and number.isdigit()) or len(number) > _MAX_DIGITS:
                return None
            if b'"' in text or b"\\" in text or b"\n" in text or not (text.isascii() or _is_text(text)):
                return None
            return number, text, before + text + behind

        return compare


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def derive(chunk: bytes, text: str, token: int, told: bytes) -> ChunkTemplate | None:
    """From an engine's chunk with one text and one id, and the client's chunk for it; None where it is no example."""
    written = text.encode()
    theirs, ours = _around(chunk, written), _around(told, written)
    if theirs is None or ours is None or b'"' in written or b"\\" in written:
        return None
    before_id, number, tail = theirs[1].rpartition(b'"token_ids":[%d]' % token)
    if not number or number in before_id:
        return None
    middle = before_id + b'"token_ids":['
    return ChunkTemplate(_DATA + theirs[0], middle, b"]" + tail + _END, b"\n" + _DATA + ours[0], ours[1] + _END)


def wrap(chunk: bytes) -> bytes:
    """The event that a chunk came in."""
    return _DATA + chunk + _END


def _around(chunk: bytes, text: bytes) -> tuple[bytes, bytes] | None:
    """What stands before and behind the one text of a chunk."""
    for key in _TEXT_KEYS:
        before, found, behind = chunk.partition(key + text + b'"')
        if found and key not in before and key not in behind:
            return before + key, b'"' + behind
    return None
