"""Chunks that differ from the one before only in their text and their id: nearly all chunks of nearly all streams.

What an engine says of one token it says of the next in the same bytes around it. A template is learned from a chunk
that was read in full, and from what the client was sent for it; the next chunk is then compared, not parsed, and its
event is put together, not dumped. Whatever does not match to the byte is read in full, as if there were no templates.

Rules kept here:

* between the known bytes there is a text without quotes and escapes, and one number: nothing else fits;
* a chunk with anything beside them (a finish_reason, logprobs, a usage) is no example and never matches one.
"""

from __future__ import annotations

from dataclasses import dataclass

_MAX_DIGITS = 9
_TEXT_KEYS = (b'"content":"', b'"text":"')


@dataclass(frozen=True, slots=True)
class Template:
    """An engine's chunk is head + text + middle + id + tail; the client's chunk for it is before + text + behind."""

    head: bytes
    middle: bytes
    tail: bytes
    before: bytes
    behind: bytes

    def match(self, payload: bytes) -> tuple[bytes, bytes] | None:
        """The text and the id, as they stand there; None where the chunk is another."""
        if not payload.startswith(self.head) or not payload.endswith(self.tail):
            return None
        text, middle, number = payload[len(self.head) : -len(self.tail)].rpartition(self.middle)
        if not middle or not text or b'"' in text or b"\\" in text:
            return None
        if not number.isdigit() or len(number) > _MAX_DIGITS:
            return None
        return text, number


def learn(payload: bytes, text: str, token: int, told: bytes) -> Template | None:
    """From an engine's chunk with one text and one id, and the client's chunk for it; None where it is no example."""
    written = text.encode()
    theirs, ours = _around(payload, written), _around(told, written)
    if theirs is None or ours is None or b'"' in written or b"\\" in written:
        return None
    before_id, number, tail = theirs[1].rpartition(b'"token_ids":[%d]' % token)
    if not number or number in before_id:
        return None
    return Template(theirs[0], before_id + b'"token_ids":[', b"]" + tail, *ours)


def _around(chunk: bytes, text: bytes) -> tuple[bytes, bytes] | None:
    """What stands before and behind the one text of a chunk."""
    for key in _TEXT_KEYS:
        before, found, behind = chunk.partition(key + text + b'"')
        if found and key not in before and key not in behind:
            return before + key, b'"' + behind
    return None
