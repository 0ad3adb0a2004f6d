"""What a stream of events has said, so that an engine that tells it anew can be compared with it, and spliced to it.

`/v1/responses` and `/v1/messages` tell an answer as events: some are whole (an item begins, a part is done), some add
a text to what the one before them said. An answer is a sequence of *passages*: one whole event each, or one text that
grew over many. Rules kept here:

* an engine that tells the answer from its beginning must say the same passages in the same order, in deltas of any
  cut. What is behind the client's end is new; what is repeated must be equal;
* what is random in every engine's answer (ids, times, signatures) or depends on its caches is not compared: the first
  engine's stays, and stands wherever the other's would stand, also in what is new;
* logprobs of ids that an engine was given are nobody's (it computed none): those that the client has stand in their
  place where an event tells a text once more as a whole;
* events that carry a number get the one behind the last that the client has.

Source of the forms: vLLM 0.32, `entrypoints/openai/responses/streaming_events.py`, `entrypoints/anthropic/serving.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

Event = dict[str, Any]

_TEXT_FIELDS = ("text", "partial_json", "thinking")
"""Of a message's delta, the field that grows; a response's delta is a text itself."""

_LOGPROBS = "logprobs"
"""What a response's delta of text has beside it: an entry for each token."""

_SEQUENCE_NUMBER = "sequence_number"

_RANDOM_FIELDS = frozenset({"id", "item_id", "call_id", "tool_use_id", "signature", "encrypted_content"})
_VOLATILE_FIELDS = frozenset({
    "created_at", "completed_at", "cached_tokens", "cache_read_input_tokens", "cache_creation_input_tokens",
    "input_tokens",
})  # fmt: skip
"""A message's input_tokens are those that no cache had. That the prompt is the same, its digest shows."""


@dataclass
class _DeliveredEvent:
    """shape: the event without what grows and without its number; text: None of a whole event; entries: logprobs."""

    shape: Event
    text: str | None = None
    entries: list[Event] = field(default_factory=list)


class EventReplay:
    """Feed it each engine's events with `unseen`; `retell` before every engine but the first."""

    def __init__(self) -> None:
        self._delivered: list[_DeliveredEvent] = []
        self._names: dict[Any, Any] = {}  # what the current engine calls something -> what the first one did
        self._number: int | None = None  # of the last event that the client has
        self._is_replay = False
        self._reset_position()

    def _reset_position(self) -> None:
        self._position = 0  # the passage that the current engine tells next, or is in
        self._text_position = 0
        self._entries_position = 0

    @property
    def is_caught_up(self) -> bool:
        """Whether the current engine has told all that the client has."""
        return self._position == len(self._delivered) or (
            self._position == len(self._delivered) - 1 and self._is_text_repeated(self._delivered[-1])
        )

    def restart(self) -> None:
        """The next engine begins at the beginning."""
        self._names.clear()
        self._is_replay = True
        self._reset_position()

    def new_part(self, event: Event) -> Event | None:
        """What the client lacks of an event, in the first engine's words; None for nothing.

        Raises ValueError where it is not what was told, TypeError, AttributeError or LookupError where it is no event
        of these routes.
        """
        event = self._with_first_names(event)
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
        passage = self._delivered[self._position]
        if passage.text is not None:
            raise ValueError("the continuation says less than what was delivered")
        self._compare(passage.shape, shape)
        self._position += 1
        return None

    def _new_text(self, event: Event, holder: Event, key: str) -> Event | None:
        text, entries = holder[key], event.get(_LOGPROBS) or []
        shape = _shape_of(event, key)
        told_before = len(self._delivered)
        passage = self._text_event(shape)
        is_new = len(self._delivered) > told_before
        known = (passage.text or "")[self._text_position :]
        overlap = min(len(known), len(text))
        if known[:overlap] != text[:overlap]:
            raise ValueError("the continuation's text differs from what was delivered")
        is_last = passage is self._delivered[-1]
        if len(text) > overlap and not is_last:
            raise ValueError("the continuation says more than what was delivered")
        known_entries = min(len(passage.entries) - self._entries_position, len(entries))
        passage.text = (passage.text or "") + text[overlap:]
        passage.entries += entries[known_entries:]
        self._text_position += len(text)
        self._entries_position += len(entries)
        if self._is_replay and not is_new and overlap == len(text) and known_entries == len(entries):
            return None
        return _with_text(event, holder, key, text[overlap:], entries[known_entries:])

    def _text_event(self, shape: Event) -> _DeliveredEvent:
        """The passage that a text with this shape belongs to, a new one where the client has none of it."""
        if self._position < len(self._delivered):
            passage = self._delivered[self._position]
            if passage.text is not None and passage.shape == shape:
                return passage
            self._end_text()
        if self._position == len(self._delivered):
            self._delivered.append(_DeliveredEvent(shape, ""))
            return self._delivered[-1]
        passage = self._delivered[self._position]
        if passage.text is None:
            raise ValueError("the continuation says more than what was delivered")
        self._compare(passage.shape, shape)
        return passage

    def _end_text(self) -> None:
        """The current engine goes on behind the text that it was in, if it was in one and has told all of it."""
        if self._position < len(self._delivered) and self._is_text_repeated(self._delivered[self._position]):
            self._position += 1
            self._text_position = self._entries_position = 0

    def _is_text_repeated(self, passage: _DeliveredEvent) -> bool:
        return passage.text is not None and self._text_position == len(passage.text)

    def _restore_logprobs(self, event: Event) -> None:
        """Put into a whole event the logprobs that were told with the deltas of its texts: they are the last before."""
        at = self._position
        for part in reversed(list(_whole_texts(event))):
            same = (
                n for n in reversed(range(at)) if self._delivered[n].entries and self._delivered[n].text == part["text"]
            )
            at = next(same, 0)
            entries = self._delivered[at].entries if self._delivered else []
            part[_LOGPROBS][: len(entries)] = map(_with_token_bytes, entries)

    # names and numbers

    def _compare(self, known: Any, told: Any, key: str = "") -> None:
        """Raises ValueError where they differ in what engines do not choose; learns the names of what they do."""
        if known == told:
            return
        if key in _RANDOM_FIELDS or key in _VOLATILE_FIELDS:
            self._names[_value_key(key, told)] = known
        elif isinstance(known, dict) and isinstance(told, dict) and known.keys() == told.keys():
            for each in known:
                self._compare(known[each], told[each], each)
        elif isinstance(known, list) and isinstance(told, list) and len(known) == len(told):
            for one, other in zip(known, told, strict=True):
                self._compare(one, other, key)
        else:
            raise ValueError(f"the continuation says something else than what was delivered ({key or 'event'})")

    def _with_first_names(self, value: Any, key: str = "") -> Any:
        """A copy in the first engine's names; without the names of any other engine it is the value itself."""
        if not self._names:
            return value
        if isinstance(value, dict):
            return {each: self._with_first_names(value[each], each) for each in value}
        if isinstance(value, list):
            return [self._with_first_names(each, key) for each in value]
        if key in _RANDOM_FIELDS or key in _VOLATILE_FIELDS:
            return self._names.get(_value_key(key, value), value)
        return value

    def _renumber(self, event: Event) -> Event:
        number = event.get(_SEQUENCE_NUMBER)
        if number is None:
            return event
        self._number = int(number) if self._number is None else self._number + 1
        return {**event, _SEQUENCE_NUMBER: self._number}


def _value_key(key: str, value: Any) -> Any:
    """An id is the same wherever it stands; a time or a count only under its own key."""
    return value if key in _RANDOM_FIELDS else (key, value)


def _text_field(event: Event) -> tuple[Event, str] | None:
    """Where in an event the text is that it adds; None of a whole event."""
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
    """The event with this text and these entries."""
    grown = {**event, _LOGPROBS: entries} if _LOGPROBS in event else dict(event)
    if holder is event:
        grown[key] = text
    else:
        grown["delta"] = {**holder, key: text}
    return grown


def _whole_texts(value: Any) -> Iterator[Event]:
    """The parts of an event that tell a text as a whole, with logprobs."""
    if isinstance(value, dict) and value.get("type") == "output_text" and value.get(_LOGPROBS):
        yield value
    elif isinstance(value, (dict, list)):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _whole_texts(each)


def _with_token_bytes(entry: Event) -> Event:
    """An entry as whole texts have it: a delta's, and for each token its bytes."""
    top = [{**each, "bytes": _token_bytes(each["token"])} for each in entry["top_logprobs"]]
    return {**entry, "bytes": _token_bytes(entry["token"]), "top_logprobs": top}


def _token_bytes(token: str) -> list[int]:
    return list(token.encode("utf-8", "replace"))
