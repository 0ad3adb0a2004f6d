"""Decide whether an engine has begun to answer a request, and which loss the engine's death is for the request. Pure.

Only a request that its engine had not begun to answer may have caused the engine's end. A stream has begun with its
first bytes behind the opening; a buffered answer's beginning is not visible, so time decides.
"""

from __future__ import annotations

import orjson

from node_agent.core.engine.lifetime import EngineLifetime
from node_agent.core.failure.loss import Loss, LossReason

_START_TIMEOUT_S = 5.0
_START_S_PER_KIB = 0.5
_OPENINGS = frozenset({b"response.created", b"response.queued", b"response.in_progress", b"ping", b"synkti-prompt"})
"""Events that an engine sends before it begins to work on a request."""


class PendingAnswer:
    """One request at an engine. has_begun: whether the engine is known to have begun to answer, or the request is over.

    lifetime: of the engine to which the request is sent.
    key: of the request, unique at this node.
    body_bytes: of the request.
    now: in seconds.
    is_suspect: whether an engine died under it before.
    """

    def __init__(self, lifetime: EngineLifetime, key: int, body_bytes: int, now: float, *, is_suspect: bool) -> None:
        self.lifetime = lifetime
        self.has_begun = False
        self._key = key
        self._began_after_death = lifetime.is_dead
        # A buffered answer's head comes with its body: until then a late head means that it has not begun.
        self._head_is_answer_until = now + answer_start_timeout_s(body_bytes)
        if is_suspect:
            lifetime.suspects.add(key)

    def begin(self) -> None:
        """Record that the engine has begun to answer, or that the request is over."""
        self.has_begun = True
        self.lifetime.suspects.discard(self._key)

    def may_have_begun(self, now: float, *, is_event_stream: bool, was_sent: bool) -> bool:
        """Return whether the engine may have begun to answer, or never had the request.

        Args:
            now: in seconds.
            is_event_stream: whether the response's head says so; False before the head.
            was_sent: whether the request left this node.
        """
        return self.has_begun or not was_sent or (not is_event_stream and now >= self._head_is_answer_until)

    def death(self, reason: LossReason | None = None) -> Loss:
        """Return the loss by the engine's death. reason: as for `EngineLifetime.death`.

        An API server answers for seconds after its core has ended: a request that began then did not cause the end.
        """
        return LossReason.STARTING if self._began_after_death else self.lifetime.death(self._key, reason)


def answer_start_timeout_s(body_bytes: int) -> float:
    """Return how long an engine may work on a buffered request before its answer has likely begun, in seconds.

    A buffered answer's beginning is not visible: a request that has been answered for minutes is not to be suspected
    when its engine ends.
    """
    return _START_TIMEOUT_S + _START_S_PER_KIB * body_bytes / 1024


def starts_answer(data: bytes) -> bool:
    """Return whether a stream's first bytes are more than opening events, which come before any work on the request."""
    lines = data.split(b"\n")
    if names := {line[7:].strip() for line in lines if line.startswith(b"event: ")}:
        return bool(names - _OPENINGS)
    return not all(_has_only_role(line[6:]) for line in lines if line.startswith(b"data: "))


def _has_only_role(payload: bytes) -> bool:
    """Return whether a chat's chunk has only the role."""
    try:
        choices = orjson.loads(payload)["choices"]
        return bool(choices) and all(
            choice["delta"].get("role")
            and not any(value for key, value in choice["delta"].items() if key != "role")
            and not choice.get("token_ids")
            and not choice.get("finish_reason")
            for choice in choices
        )
    except (orjson.JSONDecodeError, LookupError, TypeError, AttributeError):
        return False
