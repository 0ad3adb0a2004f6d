"""One engine, from its start to its end, as the requests at it see it. Pure.

When it ends, every request that it had not begun to answer is told so in the same words (`core/failure/report.died`),
however late its own connection breaks.
"""

from __future__ import annotations

import orjson

from node_agent.core.failure.attribution import ENGINE_DIED, reports_dead_engine
from node_agent.core.failure.report import format_death

_POSSIBLE_DEATHS = frozenset({"reset", "eof", "broken", "refused"})
_START_TIMEOUT_S = 5.0
_START_S_PER_KIB = 0.5
_OPENINGS = frozenset({b"response.created", b"response.queued", b"response.in_progress", b"ping", b"synkti-prompt"})
"""Events that an engine sends before it has begun to work on a request."""


class EngineLifetime:
    """number: of the engines that this agent started; suspects: of deadly requests that it has not answered yet.

    is_dead: whether it has ended, or its API server says that its core has: what comes now did not end it.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.has_ended = False
        self.is_dead = False
        self.suspects: set[int] = set()
        self._at_end: frozenset[int] = frozenset()

    def end(self) -> None:
        """Its process ended, or is about to be ended; the first time counts."""
        if not self.has_ended:
            self.has_ended = self.is_dead = True
            self._at_end = frozenset(self.suspects)

    def death_report(self, key: int, why: str = ENGINE_DIED) -> str:
        """What a request that it had not answered is lost with. key: the request's."""
        there = self._at_end if self.has_ended else self.suspects
        return format_death(self.number, alone=not there - {key}, why=why)


def answer_start_timeout_s(body_bytes: int) -> float:
    """How long an engine may work on a request in one piece before some of its answer is likely to be there.

    What nobody sees beginning cannot be told from what has begun: an answer of minutes is not to be suspected of what
    ends its engine in the middle.
    """
    return _START_TIMEOUT_S + _START_S_PER_KIB * body_bytes / 1024


def may_indicate_death(why: str) -> bool:
    """Whether an exchange that was lost for this reason may have been lost by the engine's end."""
    return why in _POSSIBLE_DEATHS


def starts_answer(data: bytes) -> bool:
    """Whether the first bytes of a stream are more than an opening, which comes before any work on the request."""
    lines = data.split(b"\n")
    if names := {line[7:].strip() for line in lines if line.startswith(b"event: ")}:
        return bool(names - _OPENINGS)
    return not all(_has_only_role(line[6:]) for line in lines if line.startswith(b"data: "))


def _has_only_role(payload: bytes) -> bool:
    """Whether a chunk of a chat only says who speaks."""
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


def reports_death(data: bytes) -> bool:
    """Whether bytes of a stream hold the error event of an API server whose engine has ended."""
    return any(reports_dead_engine(line[6:]) for line in data.split(b"\n") if line.startswith(b"data: "))
