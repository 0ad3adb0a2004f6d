"""Track requests that may crash engines: which are suspected, which are refused, for how long. Pure.

    CLEAR --an engine died before it answered--> SUSPECT --enough died, no other suspect there--> REFUSED
      ^                                             |                                                |
      +------ an engine answered, or time is up ----+                          time is up -----------+

Rules kept here:

* only what an engine had not begun to answer when it died is suspected; a stream that has tokens is not;
* one death refuses nothing: a request may have been there by chance, or the engine ended for its own reasons;
* two engines that ended by themselves refuse a request; of engines that were stuck it takes three. One that was killed
  or suspended from outside is no evidence: whoever does that hits innocent requests, too;
* the last death counts where no other suspect waited for that engine's answer: nodes send suspects one at a time
  (`runtime/node/crash_suspects`), so this holds nearly always; where it does not, the next death decides;
* deaths are counted, not requests: a hundred equal requests at one engine are one piece of evidence;
* a request that is answered is clear again at once, so a prompt that many clients send is not refused by chance;
* a refusal is by content (`core/openai/request_digest`), by every node (`core/membership/refusals`), for RETENTION_S;
* the table is bounded: the oldest case is removed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

RETENTION_S = 600.0
CRASHES_TO_REFUSE = 2
DEATHS_TO_REFUSE = 3
MAX_CASES = 256


class SuspectStatus(Enum):
    """The verdict on a request's content."""

    CLEAR = "clear"
    SUSPECT = "suspect"
    REFUSED = "refused"


@dataclass
class _Case:
    until: float
    deaths: dict[str, bool] = field(default_factory=dict)
    """Each with whether the engine ended by itself."""

    is_refused: bool = False


class SuspectTable:
    """The suspects of one node. Instants are the caller's, in seconds; content: a digest."""

    def __init__(self, most: int = MAX_CASES) -> None:
        self._most = most
        self._cases: dict[bytes, _Case] = {}

    def __len__(self) -> int:
        """The number of cases: while there are none, no look-up is needed."""
        return len(self._cases)

    def status(self, content: bytes, now: float) -> SuspectStatus:
        """Return the content's status; an expired case is removed."""
        case = self._cases.get(content)
        if case is None:
            return SuspectStatus.CLEAR
        if now >= case.until:
            del self._cases[content]
            return SuspectStatus.CLEAR
        return SuspectStatus.REFUSED if case.is_refused else SuspectStatus.SUSPECT

    def record_death(self, content: bytes, death: str, now: float, *, alone: bool, crashed: bool) -> bool:
        """Record that an engine died before it answered.

        Args:
            content: of the request.
            death: identifies the engine and its node.
            now: in seconds.
            alone: whether no other suspect was unanswered there.
            crashed: whether the engine ended by itself.

        Returns:
            Whether the content is newly refused.
        """
        self.status(content, now)
        case = self._case(content, now + RETENTION_S)
        is_new = death not in case.deaths
        case.deaths[death] = crashed
        is_enough = len(case.deaths) >= DEATHS_TO_REFUSE or sum(case.deaths.values()) >= CRASHES_TO_REFUSE
        if case.is_refused or not is_new or not alone or not is_enough:
            return False
        case.is_refused = True
        return True

    def record_answer(self, content: bytes) -> None:
        """Record that an engine began to answer the content."""
        case = self._cases.get(content)
        if case is not None and not case.is_refused:
            del self._cases[content]

    def record_refusal(self, content: bytes, until: float) -> None:
        """Record that another node refuses the content."""
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
