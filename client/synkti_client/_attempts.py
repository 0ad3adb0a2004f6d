"""Choose the next node for a request, the wait before it, and when to stop.

Invariants:

* every node is tried before one is tried again, and then after a doubling wait with jitter;
* attempts and time are bounded, again from zero after each progress; the application's own timeout bounds all of it;
* the error that is raised in the end names what each node did, and what to check.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from synkti_client._httpx import httpx
from synkti_client._nodes import Nodes
from synkti_client._retry_policy import RetryPolicy

_MIN_TRIED_NODES = 5
"""Nodes that a new request tries, where there are so many, before none answers: on a busy machine a client may spend
all of `max_unreachable_s` on two of them."""

_MAX_NAMED_NODES = 3
"""Nodes whose failures an error names; the others' are likely the same."""


class StreamLost(httpx.ReadError):
    """The stream could not be resumed at any node within the bounds of its RetryPolicy."""


class NoNodeAnswers(httpx.ConnectError):
    """No node answered a new request within the bounds of its RetryPolicy."""


class RequestLost(httpx.ReadError):
    """Nodes failed while they answered, or refused the request for now, until the RetryPolicy's bounds were reached."""


@dataclass(frozen=True)
class Bounds:
    """Bounds of one request in addition to its RetryPolicy."""

    deadline: float | None = None
    """The application's own, in seconds of the monotonic clock."""

    single_round: bool = False
    """True where each node is tried only once."""

    is_resuming: bool = False
    """True where the application already has a part of the response."""


class Attempts:
    """The attempts of one request.

    clock: seconds of the monotonic clock; rng: returns uniform numbers in [0, 1).
    """

    def __init__(
        self,
        nodes: Nodes,
        policy: RetryPolicy,
        bounds: Bounds | None = None,
        clock: Callable[[], float] = time.monotonic,
        rng: Callable[[], float] = random.random,  # noqa: S311 # for jitter
    ) -> None:
        self._nodes = nodes
        self._policy = policy
        self._bounds = bounds or Bounds()
        self._clock = clock
        self._rng = rng
        self._losses = 0
        self.on_progress()

    def on_progress(self) -> None:
        """Reset all bounds: a part of the response has been received."""
        self._count = 0
        self._began = self._clock()
        self._tried: list[str] = []
        self._not_found_at: set[str] = set()
        self._reasons: dict[str, str] = {}
        self._last_error: Exception | None = None
        self._has_answered = False
        self._min_wait_s = 0.0

    def on_not_found(self, node: str) -> bool:
        """Record that a node answered 404 for the stream. Returns True when enough nodes did: one may know too few."""
        self._not_found_at.add(node)
        return len(self._not_found_at) >= min(2, len(self._nodes))

    def begin(self) -> float:
        """Begin an attempt; return the seconds to wait before `choose`. Raises httpx.TransportError at a bound."""
        self._count += 1
        order = self._nodes.by_preference()
        if not order or (self._count > 1 and self._is_exhausted(len(order))):
            raise self._error()
        wait_s = 0.0
        if all(url in self._tried for url in order):
            self._tried.clear()
            wait_s, self._min_wait_s = self._min_wait_s, 0.0
        longest_s = self._policy.backoff_s(self._count, len(order))
        return self._clip(max(wait_s, longest_s * (0.5 + self._rng() / 2)))

    def choose(self, preferred: str | None = None) -> str:
        """Return the node of this attempt: one that it has not tried, as far as there are such.

        preferred: a node that is known to answer.
        """
        order = self._nodes.by_preference()
        node = next((url for url in (preferred, *order) if url is not None and url not in self._tried), order[0])
        self._tried.append(node)
        return node

    def on_failure(self, node: str, error: Exception) -> None:
        """Record that the node did not answer, or refused."""
        self._last_error = error
        self._reasons[node] = reason_of(error)
        self._nodes.mark_failed(node, self._clock())
        self._nodes.invalidate()

    def on_refusal(self, node: str, error: Exception, retry_after_s: float = 0.0) -> None:
        """Record that the node refused the request for now. retry_after_s: the wait that it requested."""
        self._has_answered = True
        self._min_wait_s = max(self._min_wait_s, retry_after_s)
        self.on_failure(node, error)

    def on_loss(self, node: str, error: Exception) -> None:
        """Record that the node failed while it answered. That may have taken long, so the time starts again."""
        self._losses += 1
        self._has_answered = True
        self._began = self._clock()
        self.on_failure(node, error)

    def timeout_growth(self) -> float:
        """Return the factor of the current attempt's connect and resume timeouts."""
        return self._policy.growth(self._count, len(self._nodes))

    def remaining_s(self) -> float | None:
        """Return the seconds until the application's own deadline; None where it has none."""
        return None if self._bounds.deadline is None else max(0.0, self._bounds.deadline - self._clock())

    def _clip(self, wait_s: float) -> float:
        remaining_s = self.remaining_s()
        return wait_s if remaining_s is None else min(wait_s, remaining_s)

    def _is_exhausted(self, nodes: int) -> bool:
        policy, elapsed_s = self._policy, self._clock() - self._began
        # A fleet that answered a moment ago is not misconfigured: it loses nodes, or this process is overloaded.
        is_known = self._began - self._nodes.responded_at < policy.max_retry_s
        is_new = not self._has_answered and not self._bounds.is_resuming and not is_known
        is_unreachable = is_new and self._count > min(nodes, _MIN_TRIED_NODES)
        return (
            self._count > policy.max_attempts
            or self._losses > policy.max_losses
            or elapsed_s > (min(policy.max_retry_s, policy.max_unreachable_s) if is_unreachable else policy.max_retry_s)
            or (self._bounds.single_round and self._count > nodes)
            or self._is_too_late()
        )

    def _is_too_late(self) -> bool:
        return self.remaining_s() == 0.0

    def _error(self) -> Exception:
        message = f"{self._summary()}; last: {self._failures()}"
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
        error.__cause__ = self._last_error
        return error

    def _summary(self) -> str:
        tried_s = self._clock() - self._began
        return f"{len(self._nodes)} nodes are known, {self._count - 1} attempts were made in {tried_s:.0f} s"

    def _failures(self) -> str:
        named = list(self._reasons.items())[-_MAX_NAMED_NODES:]
        return "; ".join(f"{node}: {reason}" for node, reason in named) or "no node was tried"


def reason_of(error: Exception) -> str:
    """Return an error's kind and message; many of httpx's errors have no message."""
    kind = _DESCRIPTIONS.get(type(error).__name__, type(error).__name__)
    return f"{kind}: {error}" if f"{error}" else kind


_DESCRIPTIONS = {
    "ConnectError": "no connection",
    "ConnectTimeout": "no connection in time",
    "ReadTimeout": "no answer in time",
    "WriteTimeout": "the request was not accepted in time",
    "ReadError": "the connection broke",
    "WriteError": "the connection broke",
    "CloseError": "the connection broke",
    "RemoteProtocolError": "the connection ended early",
    "StreamLost": "refused",
    "Refused": "refused",
}
