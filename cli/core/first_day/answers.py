"""Read the streams that are open while a node is lost, and compare them with an undisturbed one.

Greedy answers of a GPU may differ from run to run, since another batch is computed in another order. So answers that
no loss touched are compared, too: where these differ among themselves, a difference proves nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from cli.core.first_day.report import Outcome, StepResult, failed, passed

_CONTINUED = re.compile(rb": synkti continued on \S+ after (\S+) on (\S+), pause (\S+) ms")
MAX_TOKENS, MIN_TOKENS, PROBE_TOKENS = 16_384, 32, 64
PROMPT = "Count upwards in words, one number a line: one\ntwo\nthree\n"
_STREAM_S = 150.0
"""Longer than a drain has, so that a stream is open at its deadline and has to move."""

_PROMPT_ROOM = 64
_MAX_TAIL = 1 << 20


@dataclass(frozen=True)
class Answer:
    """A stream as the client received it. continued: the reasons; pause_ms: the longest pause of a continuation."""

    text: str
    node: str = ""
    """The instance whose engine began it."""

    finish_reason: str | None = None
    continued: tuple[str, ...] = ()
    pause_ms: float = 0.0
    error: str | None = None
    took_s: float = 0.0
    tokens: int = 0
    """The tokens that were requested."""


@dataclass
class AnswerReader:
    """Reads a stream of completions piece by piece."""

    text: str = ""
    finish_reason: str | None = None
    error: str | None = None
    continued: list[str] = field(default_factory=list)
    pause_ms: float = 0.0
    _tail: bytes = b""

    def feed(self, data: bytes) -> None:
        """Read the next bytes; an event may be split anywhere."""
        *lines, self._tail = (self._tail + data).split(b"\n")
        if len(self._tail) > _MAX_TAIL:
            self.error, self._tail = "an event without an end", b""
        for line in lines:
            self._line(line.rstrip(b"\r"))

    def _line(self, line: bytes) -> None:
        if found := _CONTINUED.match(line):
            self.continued.append(found[1].decode("utf-8", "replace"))
            self.pause_ms = max(self.pause_ms, _number(found[3]))
        if not line.startswith(b"data:"):
            return
        body = line.removeprefix(b"data:").strip()
        if body != b"[DONE]":
            self._event(body)

    def _event(self, body: bytes) -> None:
        try:
            event: Any = json.loads(body)
            if "error" in event:
                self.error = str(event["error"].get("message", "an error event"))
                return
            for choice in event["choices"]:
                self.text += choice["text"]
                self.finish_reason = choice.get("finish_reason") or self.finish_reason
        except (ValueError, KeyError, TypeError, AttributeError):
            self.error = "an event that is no completion"

    def answer(self, node: str, took_s: float, tokens: int, error: str | None = None) -> Answer:
        """Return what was read.

        Args:
            node: whose engine began the stream.
            took_s: its duration in seconds.
            tokens: that were requested.
            error: of the connection, where it broke.
        """
        found = error or self.error or (None if self.finish_reason else "it ended without a finish_reason")
        return Answer(self.text, node, self.finish_reason, tuple(self.continued), self.pause_ms, found, took_s, tokens)


def length_for(probe: Answer, context: int | None) -> int:
    """Return how many tokens a stream needs that outlives a drain.

    Args:
        probe: a short answer of PROBE_TOKENS.
        context: the model's length in tokens; None where it is not known.
    """
    rate = PROBE_TOKENS / max(probe.took_s, 0.001)
    most = MAX_TOKENS if context is None else max(MIN_TOKENS, context - _PROMPT_ROOM)
    return max(MIN_TOKENS, min(MAX_TOKENS, most, int(rate * _STREAM_S)))


def judge_answers(reference: Answer, answers: Sequence[Answer]) -> StepResult:
    """Decide whether every stream that was open while a node was lost is whole."""
    moved = [each for each in answers if each.continued]
    calm = [each for each in answers if not each.continued and each.error is None]
    is_repeatable = all(each.text == reference.text for each in calm)
    broken = [each.error for each in answers if each.error is not None]
    differing = [each for each in moved if each.error is None and each.text != reference.text]
    facts = {
        "streams": len(answers),
        "streams_continued": len(moved),
        "streams_broken": len(broken),
        "streams_differing": len(differing),
        "answers_repeatable": is_repeatable,
        "stream_characters": len(reference.text),
        "longest_pause_ms": max((each.pause_ms for each in moved), default=None),
        "continued_because": sorted({reason for each in moved for reason in each.continued}),
    }
    if broken:
        return failed(f"{len(broken)} of {len(answers)} streams broke: {broken[0]}", "report this, with logs", **facts)
    if differing and is_repeatable:
        at = _first_difference(reference.text, differing[0].text)
        return failed(f"a continued stream differs from the undisturbed one at character {at}", "report this", **facts)
    if not answers:
        return failed("no stream was open", "is the fleet reachable from here? synkti endpoint --check", **facts)
    if not moved:
        return passed(f"{len(answers)} streams, each whole; none had to move: they ended before the deadline", **facts)
    if not is_repeatable:
        summary = (
            f"{len(moved)} of {len(answers)} streams moved, each whole; this engine's answers differ from run to run"
        )
        return StepResult(Outcome.OK, summary + ", so their texts could not be compared", "", facts)
    return passed(f"{len(moved)} of {len(answers)} streams moved, none lost or changed a character", **facts)


def _first_difference(one: str, other: str) -> int:
    pairs = zip(one, other, strict=False)
    return next((at for at, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def _number(text: bytes) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0
