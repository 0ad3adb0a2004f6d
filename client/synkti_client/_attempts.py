"""One request's way from node to node: whom to ask next, how long to wait before, and when to give up.

Rules kept here:

* every node is asked before one is asked again, and then after a wait that doubles, with chance in it;
* all is bounded, in attempts and in time, anew after each progress; the application's own timeout bounds all of it;
* what is raised in the end says what each node did, and what to look at.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from synkti_client._httpx import httpx
from synkti_client._nodes import Nodes
from synkti_client._patience import RetryPolicy

_NAMED = 3
"""Nodes whose failures an error names; the others did likely the same."""


class StreamLost(httpx.ReadError):
    """The stream could not be resumed at any node, within the bounds of its Patience."""


class NoNodeAnswers(httpx.ConnectError):
    """No node answered a new request, within the bounds of its Patience."""


class RequestLost(httpx.ReadError):
    """Nodes were lost while they answered, or refused for now, until Patience was at its end."""


@dataclass(frozen=True)
class Bounds:
    """Of one request, beside those of its Patience.

    deadline: on the monotonic clock, when the application has its own; once: whether each node is asked once only;
    is_resuming: whether the application has a part of the answer already.
    """

    deadline: float | None = None
    once: bool = False
    is_resuming: bool = False


class Attempts:
    """See the module. chance: uniform in [0, 1)."""

    def __init__(
        self,
        nodes: Nodes,
        patience: RetryPolicy,
        bounds: Bounds | None = None,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._nodes = nodes
        self._patience = patience
        self._bounds = bounds or Bounds()
        self._clock = clock
        self._chance = chance
        self._losses = 0
        self.progress()

    def progress(self) -> None:
        """Something of the answer came: all bounds begin anew."""
        self._made = 0
        self._began = self._clock()
        self._asked: list[str] = []
        self._unknown_at: set[str] = set()
        self._reasons: dict[str, str] = {}
        self._last: Exception | None = None
        self._has_answered = False
        self._wait_at_least_s = 0.0

    def not_found(self, node: str) -> bool:
        """A node answers that nobody knows the stream. Whether that is to be believed: it may know too few others."""
        self._unknown_at.add(node)
        return len(self._unknown_at) >= min(2, len(self._nodes))

    def next(self, heard: str | None = None) -> tuple[str, float]:
        """The node to ask, and how long to wait before. Raises where a bound is reached.

        heard: a node that is known to answer.
        """
        self._made += 1
        order = self._nodes.order()
        if not order or (self._made > 1 and self._is_at_end(len(order))):
            raise self._error()
        node = next((url for url in (heard, *order) if url is not None and url not in self._asked), None)
        wait_s = 0.0
        if node is None:
            self._asked.clear()
            node = order[0]
            wait_s, self._wait_at_least_s = self._wait_at_least_s, 0.0
        self._asked.append(node)
        longest_s = self._patience.wait_s(self._made, len(order))
        return node, self._within(max(wait_s, longest_s * (0.5 + self._chance() / 2)))

    def failed(self, node: str, error: Exception) -> None:
        """The node did not answer; or it did, and cannot do it now."""
        self._last = error
        self._reasons[node] = reason_of(error)
        self._nodes.failed(node, self._clock())
        self._nodes.stale()

    def refused(self, node: str, error: Exception, retry_after_s: float = 0.0) -> None:
        """The node answered that it cannot do it now. retry_after_s: what it asked for."""
        self._has_answered = True
        self._wait_at_least_s = max(self._wait_at_least_s, retry_after_s)
        self.failed(node, error)

    def lost(self, node: str, error: Exception) -> None:
        """The node was lost while it answered, which may have taken long: time counts anew, losses do not."""
        self._losses += 1
        self._has_answered = True
        self._began = self._clock()
        self.failed(node, error)

    def remaining_s(self) -> float | None:
        """Until the application's own deadline; None where it has none."""
        return None if self._bounds.deadline is None else max(0.0, self._bounds.deadline - self._clock())

    def _within(self, wait_s: float) -> float:
        remaining_s = self.remaining_s()
        return wait_s if remaining_s is None else min(wait_s, remaining_s)

    def _is_at_end(self, nodes: int) -> bool:
        patience, tried_s = self._patience, self._clock() - self._began
        is_unreachable = not self._has_answered and not self._bounds.is_resuming
        return (
            self._made > patience.attempts
            or self._losses > patience.losses
            or tried_s > (min(patience.seconds, patience.unreachable_s) if is_unreachable else patience.seconds)
            or (self._bounds.once and self._made > nodes)
            or self._is_too_late()
        )

    def _is_too_late(self) -> bool:
        return self.remaining_s() == 0.0

    def _error(self) -> Exception:
        message = f"{self._summary()}; last: {self._detail()}"
        error: Exception
        if self._bounds.is_resuming:
            error = StreamLost(f"The stream cannot be resumed. {message}")
        elif self._is_too_late():
            error = httpx.ReadTimeout(f"No answer within the client's own timeout. {message}")
        elif self._has_answered:
            error = RequestLost(f"No node answered the request. {message}")
        else:
            advice = "Check that the nodes run and that this machine reaches them: curl NODE/healthz"
            error = NoNodeAnswers(f"No node of the fleet answers. {message}. {advice}")
        error.__cause__ = self._last
        return error

    def _summary(self) -> str:
        tried_s = self._clock() - self._began
        return f"{len(self._nodes)} nodes are known, {self._made - 1} attempts were made in {tried_s:.0f} s"

    def _detail(self) -> str:
        named = list(self._reasons.items())[-_NAMED:]
        return "; ".join(f"{node}: {reason}" for node, reason in named) or "no node could be asked"


def reason_of(error: Exception) -> str:
    """An error's message with what kind of error it is; many of httpx's have no message of their own."""
    kind = _KINDS.get(type(error).__name__, type(error).__name__)
    return f"{kind}: {error}" if f"{error}" else kind


_KINDS = {
    "ConnectError": "no connection",
    "ConnectTimeout": "no connection in time",
    "ReadTimeout": "no answer in time",
    "WriteTimeout": "the request was not taken in time",
    "ReadError": "the connection broke",
    "WriteError": "the connection broke",
    "CloseError": "the connection broke",
    "RemoteProtocolError": "the connection ended early",
    "StreamLost": "refused",
    "Refused": "refused",
}
