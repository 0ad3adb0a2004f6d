"""Identify the owner of a stream by an epoch, which grows with every takeover.

An epoch has a number and its owner's id, because two nodes that take a stream over at once may choose the same number.

A stream that was taken over has *epoch ranges*: which owner sent which events. An event's id names its range, because
an owner that was partitioned may have continued on its own: the same number, but not what this client was sent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, order=True)
class Epoch:
    """One ownership of a stream, ordered by the number, then by the owner's instance id."""

    number: int
    owner: str

    def __str__(self) -> str:
        return f"{self.number}.{self.owner}"

    def to_json(self) -> list[Any]:
        """Return `[number, owner]`; `epoch_from_json` parses it."""
        return [self.number, self.owner]


MAX_NUMBER = 2**48
"""Above any real number of takeovers; JSON holds it exactly, and the next number too."""

MAX_OWNER_CHARACTERS = 128


def epoch_from_json(value: Any) -> Epoch:
    """Parse `[number, owner]`. Raises ValueError where it is no epoch."""
    if not isinstance(value, list) or len(value) != 2:
        raise ValueError("not an epoch")
    number, owner = value
    if type(number) is not int or not 0 < number < MAX_NUMBER:
        raise ValueError("not an epoch's number")
    if not isinstance(owner, str) or not 0 < len(owner) <= MAX_OWNER_CHARACTERS:
        raise ValueError("not an epoch's owner")
    return Epoch(number, owner)


@dataclass(frozen=True)
class EpochRange:
    """The owner of the events after number `after`, up to the next range."""

    after: int
    epoch: Epoch


def _range_of(ranges: Sequence[EpochRange], seq: int) -> EpochRange:
    """Return the range that contains event `seq`. ranges: at least one, from the first event on."""
    return next(each for each in reversed(ranges) if each.after < max(seq, 1))


@dataclass(frozen=True)
class EventId:
    """An event's id: `<stream>/<seq>` of the first owner, `<stream>/<seq>/<epoch>` of the others.

    seq: 0 before any event.
    """

    stream: str
    seq: int
    epoch: str = ""


def event_id_suffix(ranges: Sequence[EpochRange], seq: int) -> bytes:
    """Return what follows the number in the id of event `seq`."""
    owner = _range_of(ranges, seq)
    return b"" if owner is ranges[0] else f"/{owner.epoch}".encode()


def parse_event_id(text: str) -> EventId:
    """Parse the id of an event. Raises ValueError."""
    stream, _, rest = text.partition("/")
    number, _, epoch = rest.partition("/")
    if not stream or not number.isascii() or not number.isdigit() or len(number) > 12:
        raise ValueError(f"not an event id: {text[:80]!r}; they look like <stream>/<number>")
    return EventId(stream, int(number), epoch)


def was_sent_by(event: EventId, ranges: Sequence[EpochRange]) -> bool:
    """Return whether a journal with these ranges has `event` as its client received it, not another owner's."""
    return event.seq == 0 or event_id_suffix(ranges, event.seq).decode().removeprefix("/") == event.epoch
