"""Match chunks that differ from the previous one only in their text and id: nearly all chunks of nearly all streams.

An engine's events for two tokens have the same bytes around the text and the id. A template is derived from an event
that was parsed and from the client's event for it; the next event is compared instead of parsed, and the client's event
is concatenated instead of serialized. An event that does not match to the byte is parsed.

Rules:

* between the known bytes only a text without quotes, escapes and line ends, and one number, match;
* an event with any other field (a finish_reason, logprobs, a usage) yields no template and never matches one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

_MAX_DIGITS = 9
_TEXT_KEYS = (b'"content":"', b'"text":"')
_DATA, _END = b"data: ", b"\n\n"


Matcher = Callable[[bytes], "tuple[bytes, bytes, bytes] | None"]
"""Maps an engine's event to its id and its text as they stand there, and the client's bytes after the event number.

Returns None for another event, and for more than one event.
"""


@dataclass(frozen=True)
class ChunkTemplate:
    """An engine's event is head + text + middle + id + tail; the client's is its number + before + text + after."""

    head: bytes
    middle: bytes
    tail: bytes
    before: bytes
    after: bytes

    def matcher(self) -> Matcher:
        """Return a function that matches events. It runs for every token, so its constants are bound once."""
        head, middle, tail, before, after = self.head, self.middle, self.tail, self.before, self.after
        start, end = len(head), -len(tail)

        def match(event: bytes) -> tuple[bytes, bytes, bytes] | None:
            if not (event.startswith(head) and event.endswith(tail)):
                return None
            text, found, number = event[start:end].rpartition(middle)
            if not (found and text and number.isdigit()) or len(number) > _MAX_DIGITS:
                return None
            if b'"' in text or b"\\" in text or b"\n" in text or not (text.isascii() or _is_text(text)):
                return None
            return number, text, before + text + after

        return match


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def derive(chunk: bytes, text: str, token: int, client_chunk: bytes) -> ChunkTemplate | None:
    """Derive a template from an engine's chunk with one text and one id.

    Args:
        chunk: the engine's chunk.
        text: its text.
        token: its id.
        client_chunk: the client's chunk for it.

    Returns:
        The template, None where the text or the id is not the only one in the chunk.
    """
    encoded = text.encode()
    engine_part, client_part = _around(chunk, encoded), _around(client_chunk, encoded)
    if engine_part is None or client_part is None or b'"' in encoded or b"\\" in encoded:
        return None
    before_id, number, tail = engine_part[1].rpartition(b'"token_ids":[%d]' % token)
    if not number or number in before_id:
        return None
    middle = before_id + b'"token_ids":['
    return ChunkTemplate(
        _DATA + engine_part[0], middle, b"]" + tail + _END, b"\n" + _DATA + client_part[0], client_part[1] + _END
    )


def wrap(chunk: bytes) -> bytes:
    """Return the event that contains a chunk."""
    return _DATA + chunk + _END


def _around(chunk: bytes, text: bytes) -> tuple[bytes, bytes] | None:
    """Return the bytes before and after the only text of a chunk."""
    for key in _TEXT_KEYS:
        before, found, after = chunk.partition(key + text + b'"')
        if found and key not in before and key not in after:
            return before + key, b'"' + after
    return None
