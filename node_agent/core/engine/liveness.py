r"""Detect a stuck engine by evidence of its work, and never by the silence of one stream.

Evidence of work, each of which is enough: a token that this node received; a metric of the engine's core that changed
(preemptions, generated tokens, prompt tokens, the cache's use: `core/engine/metrics`); a step that the plug-in counted;
a *probe*, which is a completion of one token, that was answered.

    WORKING --requests in flight, no work for PROBE_AFTER_S--> SLOW --none for bound_s--> STUCK
       ^                                                        |
       +------------------ any work ----------------------------+

Rules kept here:

* time counts only while requests are in flight (a probe is one) or the last probe failed, and only while evidence is
  evaluated: an agent that was frozen itself has observed nothing;
* an engine is stuck after `stuck_s` without work, or after STEPS of its own steps where those are longer, as measured
  by the probes of a quiet engine and by the pace of its streams. Where its API server answers nothing either, half of
  it; where it answers probes with errors, FAILURES of them: its core is dead, or it shuts down;
* a silent engine is probed, and an idle one now and then: else the first client after a hang would detect it. One probe
  at a time;
* one stream of a working engine is lost only where nothing explains its silence: by the core's metrics no request waits
  and none was preempted since, and PROOFS probes that began after the stream's last token have overtaken it. The
  scheduler gives every running request a part of every step, before it admits a new one.

Fed by `runtime/engine/watchdog`, which has the clock and the connections. Instants are seconds of one monotonic clock.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import Enum

from node_agent.core.engine.metrics import EngineMetrics

STUCK_S = 10.0
"""A hang is detected within 15 s, with the 3 s after which an idle engine is probed."""

PROBE_AFTER_S = 2.0
IDLE_PROBE_S = 3.0
"""One token every 3 s costs an idle engine less than a percent of its time."""

PROBE_EVERY_S = 0.5
PROOFS = 2
FAILURES = 3
_OVERLOAD = ("status-429", "status-503")
"""Failures of a probe that are no evidence about the core: vLLM may limit what it admits."""

STEPS = 4.0
"""A probe takes one step, after the current one; twice that is no hang."""

MAX_STEP_S = 30.0
"""Longer steps are not believed: the bound stays below two minutes."""

MAX_LOOK_S = 1.0
"""The most that one evaluation may add to a silence."""

_NEVER = float("-inf")


class EngineState(Enum):
    """The verdict on the engine."""

    WORKING = "working"
    SLOW = "slow"
    STUCK = "stuck"


@dataclass(frozen=True, slots=True)
class Evidence:
    """One observation of the engine."""

    at: float
    """Now."""

    in_flight: int
    """Requests at the engine."""

    tokens: int
    """A counter of the tokens received from it."""

    pace_s: float = 0.0
    """The least time per token among its streams, 0 where unknown."""

    metrics: EngineMetrics | None = None
    """The newest, None where there are none that can be read."""

    metrics_at: float = _NEVER
    """When the metrics were requested."""

    steps: int | None = None
    """A counter of the core's steps, None where they are not counted."""

    needs_proof: bool = False
    """Whether a stream is silent for so long that a probe has to show whether the others are served."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """The verdict on the engine after one observation."""

    state: EngineState
    reason: str
    should_probe: bool = False
    """Whether a probe is to be sent now."""


class EngineLiveness:
    """The liveness of one engine, from its first answer on.

    stuck_s: the least bound; first_answer_s: how long its last answer took, before a pace is known.
    """

    def __init__(self, at: float, stuck_s: float = STUCK_S, first_answer_s: float = 0.0) -> None:
        self._at = at
        self._stuck_s = stuck_s
        self._first_answer_s = first_answer_s
        self._quiet_s = 0.0  # requests in flight, and no work
        self._unanswered_s = 0.0  # the API server answers nothing
        self._idle_s = IDLE_PROBE_S  # the first probe at once: it measures a step
        self._tokens = 0
        self._steps: int | None = None
        self._metrics: EngineMetrics | None = None
        self._metrics_at = _NEVER
        self._explained_at = _NEVER  # a request waited, or was preempted
        self._probe_at: float | None = None  # when the probe in flight was sent
        self._probe_ended_at = _NEVER
        self._probe_failed = ""
        self._failures = 0  # of probes in a row, without those of an overload
        self._probe_times: deque[float] = deque(maxlen=5)
        self._answered: deque[tuple[float, float]] = deque(maxlen=8)  # sent at, answered at

    # probes

    def probe_sent(self, at: float) -> None:
        """Record that a probe was sent: the next one is requested no earlier than PROBE_EVERY_S after `probe_ended`."""
        self._probe_at = at

    def probe_ended(self, at: float, failed: str = "") -> None:
        """Record a probe's end. failed: why it was not answered; "" where it was, which is work."""
        sent, self._probe_at, self._probe_ended_at = self._probe_at, None, at
        self._probe_failed = failed
        self._failures = self._failures + 1 if failed and failed not in _OVERLOAD else 0
        self._idle_s = 0.0
        if failed or sent is None:
            return
        self._quiet_s = 0.0
        self._probe_times.append(at - sent)
        self._answered.append((sent, at))

    # observations

    def evaluate(self, evidence: Evidence) -> Judgement:
        """Judge the engine by one more observation."""
        elapsed = min(MAX_LOOK_S, max(0.0, evidence.at - self._at))
        self._at = evidence.at
        worked = self._has_worked(evidence)
        self._unanswered_s = 0.0 if self._was_answered(evidence) else self._unanswered_s + elapsed
        if worked:
            self._quiet_s = self._idle_s = 0.0
            self._failures = 0
        elif evidence.in_flight or self._probe_at is not None or self._probe_failed:
            self._quiet_s += elapsed
        else:
            self._quiet_s = 0.0
            self._idle_s += elapsed
        return self._judge(evidence)

    def _has_worked(self, evidence: Evidence) -> bool:
        worked = evidence.tokens != self._tokens
        self._tokens = evidence.tokens
        if evidence.steps is not None:
            worked = worked or (self._steps is not None and evidence.steps != self._steps)
            self._steps = evidence.steps
        before, now = self._metrics, evidence.metrics
        if now is not None:
            worked = worked or (before is not None and before.work != now.work)
            preempted = before is not None and before.preemptions != now.preemptions
            if now.waiting or preempted:
                self._explained_at = evidence.at
            self._metrics = now
        return worked

    def _was_answered(self, evidence: Evidence) -> bool:
        was, self._metrics_at = self._metrics_at, evidence.metrics_at
        return evidence.metrics_at != was

    def step_s(self, pace_s: float) -> float:
        """Return the length of the engine's steps, as far as it is known: the shortest probe, since others may wait."""
        return min(MAX_STEP_S, max(pace_s, min(self._probe_times, default=self._first_answer_s)))

    def bound_s(self, pace_s: float) -> float:
        """Return how long the engine may do no work."""
        return max(self._stuck_s, STEPS * self.step_s(pace_s))

    def _judge(self, evidence: Evidence) -> Judgement:
        bound_s = self.bound_s(evidence.pace_s)
        slow_s = max(PROBE_AFTER_S, 2 * self.step_s(evidence.pace_s))
        quiet_s, mute_s = self._quiet_s, self._unanswered_s
        if quiet_s >= bound_s or (self._failures >= FAILURES and quiet_s >= PROBE_AFTER_S):
            return Judgement(EngineState.STUCK, f"no work for {quiet_s:.1f} s; {self._probe_summary()}")
        if min(quiet_s, mute_s) >= bound_s / 2:
            return Judgement(EngineState.STUCK, f"no work and no answer for {quiet_s:.1f} s")
        probe = self._may_probe() and (
            quiet_s >= slow_s
            or self._idle_s >= IDLE_PROBE_S
            or (evidence.needs_proof and not self._has_waiting_requests())
        )
        if quiet_s >= slow_s:
            return Judgement(EngineState.SLOW, f"no work for {quiet_s:.1f} s", probe)
        return Judgement(EngineState.WORKING, "it works", probe)

    def _may_probe(self) -> bool:
        return self._probe_at is None and self._at - self._probe_ended_at >= PROBE_EVERY_S

    def _probe_summary(self) -> str:
        if self._probe_at is not None:
            return "a probe is not answered"
        return f"the last probe failed: {self._probe_failed}" if self._probe_failed else "no probe was answered"

    def _has_waiting_requests(self) -> bool:
        """Return whether requests wait: a probe would only wait with them."""
        return self._metrics is not None and self._metrics.waiting > 0

    # one stream of a working engine

    def _max_silence_s(self, since: float, allowed_s: float, first_token_s: float) -> float:
        """Return how long a stream may be silent whose last token came at `since`.

        allowed_s: by its pace; first_token_s: as before its first token, for one that may have been preempted and is
        computed again. Where no metrics can explain a silence, it may last that long, too.
        """
        if self._metrics is None or not self._metrics.can_explain_silence:
            return max(allowed_s, first_token_s)
        if self._explained_at > since:
            return self._explained_at - since + max(allowed_s, first_token_s)
        return allowed_s

    def needs_proof(self, since: float, allowed_s: float, first_token_s: float) -> bool:
        """Return whether a silence is half as long as it may be, and no probe has shown that others are served."""
        is_long = self._at - since >= self._max_silence_s(since, allowed_s, first_token_s) / 2
        return is_long and self._proofs(since) < PROOFS

    def is_overtaken(self, since: float, allowed_s: float, first_token_s: float) -> bool:
        """Return whether a stream that is silent since then is lost, although the engine works."""
        if self._at - since < self._max_silence_s(since, allowed_s, first_token_s) or self._quiet_s >= PROBE_AFTER_S:
            return False
        return self._proofs(since) >= PROOFS

    def _proofs(self, since: float) -> int:
        """Count the probes that overtook a stream: those before the newest metrics, which explain nothing."""
        explains = self._metrics is not None and self._metrics.can_explain_silence
        return sum(1 for sent, ended in self._answered if sent > since and (not explains or ended <= self._metrics_at))
