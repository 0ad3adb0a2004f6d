"""Record the delivered events of a stream, compare an engine's repetition with them, and splice it to them.

`/v1/responses` and `/v1/messages` send an answer as events: some are complete (an item begins, a part is done), some
append to a text. An answer is a sequence of *delivered events*: a complete event each, or a text that grew over many
events. Rules:

* an engine that restarts the answer must send the same delivered events in the same order, in deltas of any size. What
  follows the client's part is new; what is repeated must be equal;
* values that are random in every engine's answer (ids, times, signatures) or depend on its caches are not compared: the
  first engine's values stay, and replace the other engine's, also in new events;
* an engine computes no logprobs of ids that it was given: where an event repeats a complete text, the client's logprobs
  replace them;
* events that carry a number get the next one after the client's last.

Source of the forms: vLLM 0.32, `entrypoints/openai/responses/streaming_events.py`, `entrypoints/anthropic/serving.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

Event = dict[str, Any]

_TEXT_FIELDS = ("text", "partial_json", "thinking")
"""The fields of a message's delta that append to a text; a response's delta is a text itself."""

_LOGPROBS = "logprobs"
"""The field of a response's text delta with an entry for each token."""

_SEQUENCE_NUMBER = "sequence_number"

_RANDOM_FIELDS = frozenset({"id", "item_id", "call_id", "tool_use_id", "signature", "encrypted_content"})
_VOLATILE_FIELDS = frozenset({
    "created_at", "completed_at", "cached_tokens", "cache_read_input_tokens", "cache_creation_input_tokens",
    "input_tokens",
})  # fmt: skip
"""A message's input_tokens exclude cached ones. The digest of the prompt proves that the prompt is the same."""


@dataclass
class _DeliveredEvent:
    """One delivered event.

    shape: the event without its text and its number. text: None for a complete event. entries: its logprobs.
    """

    shape: Event
    text: str | None = None
    entries: list[Event] = field(default_factory=list)


class EventReplay:
    """Compare and splice events: pass each engine's events to `new_part`, call `restart` before every later engine."""

    def __init__(self) -> None:
        self._delivered: list[_DeliveredEvent] = []
        self._first_values: dict[Any, Any] = {}  # the current engine's random value -> the first engine's
        self._number: int | None = None  # of the client's last event
        self._is_replay = False
        self._reset_position()

    def _reset_position(self) -> None:
        self._position = 0  # the delivered event that the current engine repeats next, or is in
        self._text_position = 0
        self._entries_position = 0

    @property
    def is_caught_up(self) -> bool:
        """True when the current engine has repeated everything that the client has."""
        return self._position == len(self._delivered) or (
            self._position == len(self._delivered) - 1 and self._is_text_repeated(self._delivered[-1])
        )

    def restart(self) -> None:
        """Start the next engine at the beginning of the answer."""
        self._first_values.clear()
        self._is_replay = True
        self._reset_position()

    def new_part(self, event: Event) -> Event | None:
        """Return what the client lacks of an event, with the first engine's random values; None for nothing.

        Raises ValueError where it differs from what was delivered, TypeError, AttributeError or LookupError where it is
        no event of these routes.
        """
        event = self._with_first_values(event)
        place = _text_field(event)
        new = self._new_whole(event) if place is None else self._new_text(event, *place)
        return None if new is None else self._renumber(new)

    def _new_whole(self, event: Event) -> Event | None:
        self._end_text()
        if self._is_replay:
            self._restore_logprobs(event)
        shape = {key: event[key] for key in event if key != _SEQUENCE_NUMBER}
        if self._position == len(self._delivered):
            self._delivered.append(_DeliveredEvent(shape))
            self._position += 1
            return event
        delivered = self._delivered[self._position]
        if delivered.text is not None:
            raise ValueError("the continuation has less than what was delivered")
        self._compare(delivered.shape, shape)
        self._position += 1
        return None

    def _new_text(self, event: Event, holder: Event, key: str) -> Event | None:
        text, entries = holder[key], event.get(_LOGPROBS) or []
        shape = _shape_of(event, key)
        known_count = len(self._delivered)
        delivered = self._text_event(shape)
        is_new = len(self._delivered) > known_count
        known = (delivered.text or "")[self._text_position :]
        overlap = min(len(known), len(text))
        if known[:overlap] != text[:overlap]:
            raise ValueError("the continuation's text differs from what was delivered")
        is_last = delivered is self._delivered[-1]
        if len(text) > overlap and not is_last:
            raise ValueError("the continuation has more than what was delivered")
        known_entries = min(len(delivered.entries) - self._entries_position, len(entries))
        delivered.text = (delivered.text or "") + text[overlap:]
        delivered.entries += entries[known_entries:]
        self._text_position += len(text)
        self._entries_position += len(entries)
        if self._is_replay and not is_new and overlap == len(text) and known_entries == len(entries):
            return None
        return _with_text(event, holder, key, text[overlap:], entries[known_entries:])

    def _text_event(self, shape: Event) -> _DeliveredEvent:
        """Return the delivered event of a text with this shape, a new one where the client has none of it."""
        if self._position < len(self._delivered):
            delivered = self._delivered[self._position]
            if delivered.text is not None and delivered.shape == shape:
                return delivered
            self._end_text()
        if self._position == len(self._delivered):
            self._delivered.append(_DeliveredEvent(shape, ""))
            return self._delivered[-1]
        delivered = self._delivered[self._position]
        if delivered.text is None:
            raise ValueError("the continuation has more than what was delivered")
        self._compare(delivered.shape, shape)
        return delivered

    def _end_text(self) -> None:
        """Advance past the current text, if the current engine has repeated all of it."""
        if self._position < len(self._delivered) and self._is_text_repeated(self._delivered[self._position]):
            self._position += 1
            self._text_position = self._entries_position = 0

    def _is_text_repeated(self, delivered: _DeliveredEvent) -> bool:
        return delivered.text is not None and self._text_position == len(delivered.text)

    def _restore_logprobs(self, event: Event) -> None:
        """Insert the logprobs of the deltas into a complete event; its texts are the last ones before it."""
        end = self._position
        for part in reversed(list(_whole_texts(event))):
            same = (
                n
                for n in reversed(range(end))
                if self._delivered[n].entries and self._delivered[n].text == part["text"]
            )
            end = next(same, 0)
            entries = self._delivered[end].entries if self._delivered else []
            part[_LOGPROBS][: len(entries)] = map(_with_token_bytes, entries)

    # random values and sequence numbers

    def _compare(self, known: Any, repeated: Any, key: str = "") -> None:
        """Compare two values; record differing random values, raise ValueError for any other difference."""
        if known == repeated:
            return
        if key in _RANDOM_FIELDS or key in _VOLATILE_FIELDS:
            self._first_values[_value_key(key, repeated)] = known
        elif isinstance(known, dict) and isinstance(repeated, dict) and known.keys() == repeated.keys():
            for each in known:
                self._compare(known[each], repeated[each], each)
        elif isinstance(known, list) and isinstance(repeated, list) and len(known) == len(repeated):
            for left, right in zip(known, repeated, strict=True):
                self._compare(left, right, key)
        else:
            raise ValueError(f"the continuation differs from what was delivered ({key or 'event'})")

    def _with_first_values(self, value: Any, key: str = "") -> Any:
        """Return a copy with the first engine's random values; the value itself where no others are known."""
        if not self._first_values:
            return value
        if isinstance(value, dict):
            return {each: self._with_first_values(value[each], each) for each in value}
        if isinstance(value, list):
            return [self._with_first_values(each, key) for each in value]
        if key in _RANDOM_FIELDS or key in _VOLATILE_FIELDS:
            return self._first_values.get(_value_key(key, value), value)
        return value

    def _renumber(self, event: Event) -> Event:
        number = event.get(_SEQUENCE_NUMBER)
        if number is None:
            return event
        self._number = int(number) if self._number is None else self._number + 1
        return {**event, _SEQUENCE_NUMBER: self._number}


def _value_key(key: str, value: Any) -> Any:
    """Return the key of a random value: an id is the same under any field, a time or a count only under its own."""
    return value if key in _RANDOM_FIELDS else (key, value)


def _text_field(event: Event) -> tuple[Event, str] | None:
    """Return the holder and the field of the text that an event appends; None for a complete event."""
    delta = event.get("delta")
    if isinstance(delta, str):
        return event, "delta"
    if isinstance(delta, dict):
        for key in _TEXT_FIELDS:
            if isinstance(delta.get(key), str):
                return delta, key
    return None


def _shape_of(event: Event, key: str) -> Event:
    shape = {each: event[each] for each in event if each not in (_SEQUENCE_NUMBER, _LOGPROBS, key)}
    if key != "delta":
        shape["delta"] = {each: event["delta"][each] for each in event["delta"] if each != key}
    return shape


def _with_text(event: Event, holder: Event, key: str, text: str, entries: list[Any]) -> Event:
    """Return the event with this text and these entries."""
    result = {**event, _LOGPROBS: entries} if _LOGPROBS in event else dict(event)
    if holder is event:
        result[key] = text
    else:
        result["delta"] = {**holder, key: text}
    return result


def _whole_texts(value: Any) -> Iterator[Event]:
    """Yield the parts of an event that contain a complete text with logprobs."""
    if isinstance(value, dict) and value.get("type") == "output_text" and value.get(_LOGPROBS):
        yield value
    elif isinstance(value, (dict, list)):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _whole_texts(each)


def _with_token_bytes(entry: Event) -> Event:
    """Return a delta's logprobs entry in the form of complete texts, with the bytes of each token."""
    top = [{**each, "bytes": _token_bytes(each["token"])} for each in entry["top_logprobs"]]
    return {**entry, "bytes": _token_bytes(entry["token"]), "top_logprobs": top}


def _token_bytes(token: str) -> list[int]:
    return list(token.encode("utf-8", "replace"))
