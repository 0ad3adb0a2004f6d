"""Who owns a stream: an epoch, higher with every owner. Two epochs are never equal unless they are the same owner's.

The number alone would not do: two nodes that take a stream over at once may choose the same one.

A stream that was taken over has *runs*: from which event on which owner's it is. An event's id names its run, because
an owner that was cut off may have gone on for itself: the same number, but not what this client was told.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, order=True)
class Epoch:
    """Ordered by the number, then by the owner's instance id."""

    number: int
    owner: str

    def __str__(self) -> str:
        return f"{self.number}.{self.owner}"

    def to_json(self) -> list[Any]:
        return [self.number, self.owner]


MAX_NUMBER = 2**48
"""A stream is not taken over more often; JSON and whoever adds one to it can hold it."""

MAX_OWNER_CHARACTERS = 128


def epoch_from_json(value: Any) -> Epoch:
    """Raises ValueError where it is none."""
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
    """The events behind number `after` are this owner's, up to the next run."""

    after: int
    epoch: Epoch


def range_of(runs: Sequence[EpochRange], seq: int) -> EpochRange:
    """The run that event `seq` is of; runs: at least one, from the first event on."""
    return next(run for run in reversed(runs) if run.after < max(seq, 1))


@dataclass(frozen=True)
class EventId:
    """`<stream>/<seq>` for a stream's first owner, `<stream>/<seq>/<epoch>` for the others. seq: 0 before any event."""

    stream: str
    seq: int
    epoch: str = ""


def event_id_suffix(runs: Sequence[EpochRange], seq: int) -> bytes:
    """What stands behind the number in the id of event `seq`."""
    run = range_of(runs, seq)
    return b"" if run is runs[0] else f"/{run.epoch}".encode()


def parse_event_id(text: str) -> EventId:
    """Raises ValueError."""
    stream, _, rest = text.partition("/")
    number, _, epoch = rest.partition("/")
    if not stream or not number.isascii() or not number.isdigit() or len(number) > 12:
        raise ValueError(f"not an event id: {text[:80]!r}; they look like <stream>/<number>")
    return EventId(stream, int(number), epoch)


def was_sent_by(event: EventId, runs: Sequence[EpochRange]) -> bool:
    """Whether a journal with these runs has what the client of `event` was told, and not another owner's words."""
    return event.seq == 0 or event_id_suffix(runs, event.seq).decode().removeprefix("/") == event.epoch
