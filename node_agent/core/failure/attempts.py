"""Track one request's attempts at engines, and decide what its client receives where none of them answers.

sent  --answered------------------------------> the client has it; engines in doubt are counted as failing
      --failed: ELSEWHERE, below the bound----> another engine
      --failed: ONCE_MORE, the first time-----> another engine
      --failed: ONCE_MORE, the second time----> the client gets that answer
      --failed: FINAL-------------------------> the client gets that answer
      --no engine is left, or the bound-------> the last answer about the request; busy; or the list of losses
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import orjson

from node_agent.contract.errors import route_error
from node_agent.core.failure.attribution import NOT_SERVING
from node_agent.core.failure.loss import LossReason
from node_agent.core.failure.verdict import BreakerEffect, NextStep, Verdict

MAX_ENGINES = 3
"""Engines that lose one request before it ends with an error."""

MAX_REQUESTS = 8
"""The same with engines that handed it off, or did not accept it because they do not serve."""

_OPINIONS = 2
_NOT_LOST = frozenset({LossReason.HANDOFF.value, NOT_SERVING})
_BUSY = frozenset({"engine-busy", "peer-busy"})


@dataclass(frozen=True, slots=True)
class EngineResponse:
    """An engine's own answer, to be forwarded unchanged."""

    status: int
    body: bytes
    content_type: bytes = b"application/json"
    headers: Sequence[tuple[bytes, bytes]] = ()
    """Without the content-type."""

    is_event: bool = False
    """True where it was an error event of a stream."""


class Attempts:
    """The failed attempts of one request. codes: the failures' codes, in order.

    path: of the request's route, whose clients have a form of error.
    in_doubt: nodes that are at fault if another engine answers the request.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self.codes: list[str] = []
        self.in_doubt: list[str] = []
        self._response: EngineResponse | None = None
        self._failures = 0

    def record_failure(self, instance_id: str, verdict: Verdict, answer: EngineResponse | None = None) -> bool:
        """Record a failure. Returns whether another engine may be tried. answer: the engine's, where it sent one."""
        self.codes.append(verdict.code)
        if verdict.breaker is BreakerEffect.IN_DOUBT:
            self.in_doubt.append(instance_id)
        if verdict.next is NextStep.ELSEWHERE:
            return not self.is_at_bound
        self._failures += 1
        is_agreed = verdict.next is NextStep.FINAL or self._failures >= _OPINIONS
        if answer is not None and verdict.breaker is BreakerEffect.NO:
            self._response = answer
        elif is_agreed and self._response is None:
            self._response = _unexplained(self._path, self.codes)
        return not is_agreed and not self.is_at_bound

    @property
    def is_at_bound(self) -> bool:
        """True once the bound on attempts is reached."""
        lost = sum(code not in _NOT_LOST for code in self.codes)
        return lost >= MAX_ENGINES or len(self.codes) >= MAX_REQUESTS

    @property
    def response(self) -> EngineResponse | None:
        """What the client receives where no other engine is tried; None where the request was only lost."""
        return self._response

    @property
    def all_busy(self) -> bool:
        """True where every failure was an engine or a peer without room."""
        return bool(self.codes) and _BUSY.issuperset(self.codes)

    def summary(self, what: str) -> str:
        """Describe the failures for people. what: the failed parties, in the plural."""
        count = len(self.codes)
        return f"{count} {what if count != 1 else what.removesuffix('s')} ({', '.join(self.codes)})"


def _unexplained(path: str, codes: list[str]) -> EngineResponse:
    message = (
        f"{len(codes)} engines failed at this request ({', '.join(codes)}) and gave no error that could be passed on;"
        " it seems to be the request's own fault. Change it before you send it again."
    )
    return EngineResponse(500, orjson.dumps(route_error(path, 500, "engine_error", message)))
