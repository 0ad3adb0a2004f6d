"""Requests that end engines: who is suspected, who is refused, for how long. Pure.

    CLEAR --an engine died before it answered--> SUSPECT --another died, no other suspect there--> REFUSED
      ^                                             |                                                 |
      +------ an engine answered, or time is up ----+                          time is up ------------+

Rules kept here:

* only what an engine had not begun to answer when it died is suspected; a stream that has tokens is not;
* one death condemns nobody: whoever was there may have been there by chance, or the engine ended for its own reasons;
* two deaths condemn, where no other suspect waited for the second engine's answer: nodes ask suspects one at a time
  (`runtime/node/crash_suspects`), so this holds nearly always; where it does not, the next death decides;
* deaths are counted, not requests: a hundred equal requests at one engine are one piece of evidence;
* whoever gets an answer is clear again at once, so a prompt that everybody sends is not condemned by chance;
* what is refused is refused by content (`core/openai/request_digest`), by every node (`core/membership/refusals`), for
  KEPT_S;
* all of it is bounded: the oldest case makes room.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

RETENTION_S = 600.0
MAX_CASES = 256


class SuspectStatus(Enum):
    """What is held of a request's content."""

    CLEAR = "clear"
    SUSPECT = "suspect"
    REFUSED = "refused"


@dataclass
class _Case:
    until: float
    deaths: set[str] = field(default_factory=set)
    is_refused: bool = False


class SuspectTable:
    """Of one node. Instants are the caller's, in seconds; content: a digest."""

    def __init__(self, most: int = MAX_CASES) -> None:
        self._most = most
        self._cases: dict[bytes, _Case] = {}

    def __len__(self) -> int:
        """Cases held: while there are none, nobody has to look anything up."""
        return len(self._cases)

    def status(self, content: bytes, now: float) -> SuspectStatus:
        case = self._cases.get(content)
        if case is None:
            return SuspectStatus.CLEAR
        if now >= case.until:
            del self._cases[content]
            return SuspectStatus.CLEAR
        return SuspectStatus.REFUSED if case.is_refused else SuspectStatus.SUSPECT

    def record_death(self, content: bytes, death: str, now: float, *, alone: bool) -> bool:
        """An engine died before it answered. Returns whether the content is refused from now on, and was not before.

        death: which engine of which node; alone: whether no other suspect was unanswered there.
        """
        self.status(content, now)
        case = self._case(content, now + RETENTION_S)
        is_new = death not in case.deaths
        case.deaths.add(death)
        if case.is_refused or not is_new or not alone or len(case.deaths) < 2:
            return False
        case.is_refused = True
        return True

    def record_answer(self, content: bytes) -> None:
        """An engine began to answer it."""
        case = self._cases.get(content)
        if case is not None and not case.is_refused:
            del self._cases[content]

    def record_refusal(self, content: bytes, until: float) -> None:
        """Another node refuses it."""
        self._case(content, until).is_refused = True

    def _case(self, content: bytes, until: float) -> _Case:
        case = self._cases.pop(content, None)
        if case is None:
            if len(self._cases) >= self._most:
                del self._cases[next(iter(self._cases))]
            case = _Case(until)
        case.until = until
        self._cases[content] = case  # the newest goes last
        return case
