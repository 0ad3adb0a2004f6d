"""What became of one request at the engines that were asked, and what its client gets where none of them answered.

asked --answered------------------------------> the client has it; who was in doubt for it is counted as failing
      --failed: ELSEWHERE, below the bound----> another engine
      --failed: ONCE_MORE, the first time-----> another engine
      --failed: ONCE_MORE, the second time----> the client gets that answer
      --failed: FINAL-------------------------> the client gets that answer
      --no engine is left, or the bound-------> the last answer that is the request's; busy; or which losses
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import orjson

from node_agent.contract.errors import openai_error
from node_agent.core.failure.attribution import BreakerEffect, NextStep, Verdict

MAX_ENGINES = 3
"""Engines that are asked for one request, before it ends with an error."""

MAX_REQUESTS = 8
"""The same with those that gave it back because they go, or did not take it because they do not serve."""

_OPINIONS = 2
_NOT_LOST = frozenset({"handoff", "not-serving"})
_BUSY = frozenset({"engine-busy", "peer-busy"})


@dataclass(frozen=True, slots=True)
class EngineResponse:
    """An engine's own answer, to be passed on as it is. headers: beside the content-type; is_event: it came as an error
    event of a stream."""

    status: int
    body: bytes
    content_type: bytes = b"application/json"
    headers: Sequence[tuple[bytes, bytes]] = ()
    is_event: bool = False


class Attempts:
    """See the module. whys: of the failures, in order; in_doubt: nodes whose fault it is if another engine can."""

    def __init__(self) -> None:
        self.codes: list[str] = []
        self.in_doubt: list[str] = []
        self._response: EngineResponse | None = None
        self._failures = 0

    def failed(self, instance_id: str, verdict: Verdict, answer: EngineResponse | None = None) -> bool:
        """Whether another engine may be asked. answer: what the engine said, where it said something."""
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
            self._response = _unexplained(self.codes)
        return not is_agreed and not self.is_at_bound

    @property
    def is_at_bound(self) -> bool:
        """Whether as many engines were asked as may be."""
        lost = sum(why not in _NOT_LOST for why in self.codes)
        return lost >= MAX_ENGINES or len(self.codes) >= MAX_REQUESTS

    @property
    def response(self) -> EngineResponse | None:
        """What the client gets where no other engine is asked; None where it was only lost."""
        return self._response

    @property
    def all_busy(self) -> bool:
        """Whether every engine only had no room."""
        return bool(self.codes) and _BUSY.issuperset(self.codes)

    def summary(self, what: str) -> str:
        """The failures, for people. what: who failed, in the plural."""
        count = len(self.codes)
        return f"{count} {what if count != 1 else what.removesuffix('s')} ({', '.join(self.codes)})"


def _unexplained(whys: list[str]) -> EngineResponse:
    message = (
        f"{len(whys)} engines failed at this request ({', '.join(whys)}) and gave no error that could be passed on;"
        " it seems to be the request's own fault. Change it before you send it again."
    )
    return EngineResponse(500, orjson.dumps(openai_error(500, "engine_error", message)))
