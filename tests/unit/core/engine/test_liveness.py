"""Test engine liveness: what counts as work, when an engine is stuck, and when one stream is lost."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node_agent.core.engine.liveness import (
    IDLE_PROBE_S,
    MAX_STEP_S,
    PROBE_AFTER_S,
    STUCK_S,
    EngineLiveness,
    EngineState,
    Evidence,
    Judgement,
)
from node_agent.core.engine.metrics import EngineMetrics

LOOK_S = 0.25
NO_FIGURES: EngineMetrics | None = None


def engine_metrics(
    generated: float = 0.0, waiting: int = 0, preemptions: float | None = 0.0, **more: float
) -> EngineMetrics:
    return EngineMetrics(1, waiting, more.get("kv_use", 0.5), preemptions, generated, more.get("prompted", 0.0))


@dataclass
class Played:
    """An engine that is observed four times a second. answers: how long a probe takes, None for no answer."""

    machine: EngineLiveness
    answers: float | None = None
    now: float = 0.0
    probes: list[float] = field(default_factory=list)
    judged: list[Judgement] = field(default_factory=list)
    _sent: float | None = None

    def look(self, **evidence: object) -> Judgement:
        self.now += LOOK_S
        if self._sent is not None and self.answers is not None and self.now - self._sent >= self.answers:
            self._sent = None
            self.machine.probe_ended(self.now)
        given = {"in_flight": 1, "tokens": 0, "metrics_at": self.now, **evidence}
        judgement = self.machine.evaluate(Evidence(at=self.now, **given))  # type: ignore[arg-type] # one test's fields
        if judgement.should_probe:
            assert self._sent is None, "one probe at a time"
            self._sent = self.now
            self.probes.append(self.now)
            self.machine.probe_sent(self.now)
        self.judged.append(judgement)
        return judgement

    def forget_probe(self) -> None:
        """Drop the probe: a test has ended it."""
        self._sent = None

    def until_stuck(self, within_s: float, evidence: Callable[[float], dict[str, object]] = lambda at: {}) -> float:
        """Return when it was found stuck."""
        while self.now < within_s:
            if self.look(**evidence(self.now)).state is EngineState.STUCK:
                return self.now
        raise AssertionError(f"not stuck within {within_s} s: {self.judged[-1]}")

    def runs(self, seconds: float, evidence: Callable[[float], dict[str, object]] = lambda at: {}) -> None:
        """Run for so long, never stuck."""
        end = self.now + seconds
        while self.now < end:
            judgement = self.look(**evidence(self.now))
            assert judgement.state is not EngineState.STUCK, f"{judgement.reason} at {self.now}"


def played(answers: float | None = None, **options: float) -> Played:
    return Played(EngineLiveness(0.0, **options), answers)


def test_a_core_that_hangs_is_detected_within_fifteen_seconds_also_while_idle() -> None:
    assert played().until_stuck(15.0) <= STUCK_S + 1.0
    idle = played(answers=0.05)
    idle.runs(60.0, lambda at: {"in_flight": 0})
    idle.answers, began = None, idle.now
    assert idle.until_stuck(began + 15.0, lambda at: {"in_flight": 0}) - began <= STUCK_S + IDLE_PROBE_S + 1.0


def test_an_engine_that_answers_nothing_at_all_is_detected_in_half_the_time() -> None:
    assert played().until_stuck(15.0, lambda at: {"metrics_at": 0.0}) <= STUCK_S / 2 + 1.0
    with_metrics = played()
    with_metrics.runs(STUCK_S - 1.0)


@pytest.mark.parametrize(
    ("name", "work"),
    [
        ("tokens of any stream", lambda at: {"tokens": int(at / 7.0)}),
        ("steps that the plug-in counts", lambda at: {"steps": int(at / 7.0)}),
        ("tokens that the engine has made", lambda at: {"metrics": engine_metrics(generated=int(at / 7.0))}),
        ("prompts that it reads", lambda at: {"metrics": engine_metrics(prompted=int(at / 7.0))}),
        ("preemptions", lambda at: {"metrics": engine_metrics(preemptions=int(at / 7.0))}),
        ("the cache that a long prefill fills", lambda at: {"metrics": engine_metrics(kv_use=int(at / 7.0) / 100)}),
    ],
)
def test_any_sign_of_work_is_enough(name: str, work: Callable[[float], dict[str, object]]) -> None:
    played().runs(70.0, work)


def test_arriving_and_leaving_requests_are_no_work() -> None:
    """The API server's own counts change while its core is stuck; no metric of the core does."""
    of_requests = lambda at: {  # noqa: E731 # of one test
        "in_flight": 1 + int(at * 4) % 9,
        "metrics": EngineMetrics(1 + int(at * 4) % 9, int(at * 4) % 5, 0.5, 0.0, 3.0, 4.0),
    }
    assert played().until_stuck(15.0, of_requests) <= STUCK_S + 1.0


@pytest.mark.parametrize("seconds_per_token", [2.5, 5.0, 12.0, 25.0])
def test_a_slow_model_is_slow_and_not_stuck(seconds_per_token: float) -> None:
    engine = played(answers=2 * seconds_per_token, first_answer_s=seconds_per_token)
    engine.runs(300.0, lambda at: {"tokens": int(at / seconds_per_token)})


def test_the_first_answer_bounds_the_first_probe_and_that_probe_all_later_ones() -> None:
    compiles = played(answers=25.0, first_answer_s=25.0)
    compiles.runs(30.0, lambda at: {"in_flight": 0})
    fast = played(answers=0.1, first_answer_s=25.0)
    fast.runs(5.0, lambda at: {"in_flight": 0})
    fast.answers, began = None, fast.now
    assert fast.until_stuck(began + 15.0) - began <= STUCK_S + 1.0, "the warm-up's compiling is no pace"


def test_no_pace_makes_the_bound_endless() -> None:
    machine = EngineLiveness(0.0, first_answer_s=1e9)
    assert machine.bound_s(1e9) <= 4 * MAX_STEP_S


def test_a_probe_follows_a_silence_and_is_periodic_while_idle() -> None:
    idle = played(answers=0.05)
    idle.runs(60.0, lambda at: {"in_flight": 0})
    assert 60.0 / (IDLE_PROBE_S + 1.0) <= len(idle.probes) <= 1 + 60.0 / IDLE_PROBE_S
    busy = played(answers=0.05)
    busy.runs(60.0, lambda at: {"tokens": int(at * 10)})
    assert len(busy.probes) <= 1, "tokens are proof enough"


def failing(why: str, work: Callable[[float], dict[str, object]], seconds: float) -> Played:
    """An engine whose probes all fail at once, after so long, or as soon as it is stuck."""
    engine = played()
    while engine.now < seconds:
        if engine.look(**work(engine.now)).state is EngineState.STUCK:
            break
        engine.machine.probe_ended(engine.now, why)
        engine.forget_probe()
    return engine


@pytest.mark.parametrize("why", ["status-500", "refused", "reset"])
@pytest.mark.parametrize("in_flight", [0, 3])
def test_an_engine_that_only_answers_with_errors_is_detected_soon(why: str, in_flight: int) -> None:
    """A vLLM whose drain had its time, or whose core has died."""
    engine = failing(why, lambda at: {"in_flight": in_flight}, 60.0)
    assert engine.judged[-1].state is EngineState.STUCK
    assert engine.now <= 5.0
    assert why in engine.judged[-1].reason


def test_an_engine_that_refuses_probes_but_works_is_left_alone() -> None:
    assert failing("status-500", working, 60.0).now >= 60.0
    assert failing("status-503", lambda at: {"tokens": int(at / 5)}, 60.0).now >= 60.0
    assert failing("status-503", lambda at: {}, 60.0).now <= STUCK_S + 1.0


def test_an_agent_that_was_frozen_itself_draws_no_conclusion() -> None:
    engine = played(answers=0.1)
    engine.runs(8.0, lambda at: {"tokens": int(at)})
    engine.now += 3_600.0
    assert engine.look(tokens=8).state is EngineState.WORKING


def test_the_state_passes_through_each_stage_on_the_way() -> None:
    engine = played()
    engine.until_stuck(15.0)
    states = [judgement.state for judgement in engine.judged]
    assert states == sorted(states, key=list(EngineState).index)
    assert set(states) == set(EngineState)
    slow = states.index(EngineState.SLOW)
    assert slow * LOOK_S >= PROBE_AFTER_S - LOOK_S
    assert engine.machine.evaluate(Evidence(engine.now + 1, 1, 7)).state is EngineState.WORKING, "late, but it works"


# one stream of a working engine

SINCE = 1.0
ALLOWED_S, PATIENT_S = 2.0, 30.0


def lost_at(engine: Played, evidence: Callable[[float], dict[str, object]], within_s: float) -> float | None:
    """Return when a stream is lost that is silent since SINCE."""
    while engine.now < within_s:
        wants = engine.machine.needs_proof(SINCE, ALLOWED_S, PATIENT_S)
        judgement = engine.look(needs_proof=wants, **evidence(engine.now))
        assert judgement.state is EngineState.WORKING
        if engine.machine.is_overtaken(SINCE, ALLOWED_S, PATIENT_S):
            return engine.now
    return None


def working(at: float) -> dict[str, object]:
    return {"tokens": int(at * 20), "metrics": engine_metrics(generated=int(at * 20))}


def test_a_stream_overtaken_without_a_reason_is_lost_after_the_inter_token_timeout() -> None:
    at = lost_at(played(answers=0.1), working, 20.0)
    assert at is not None
    assert SINCE + ALLOWED_S <= at <= SINCE + ALLOWED_S + 2.0


@pytest.mark.parametrize(
    ("name", "evidence"),
    [
        ("preempted", lambda at: {**working(at), "metrics": engine_metrics(at, preemptions=float(at >= 1.5))}),
        ("requests wait", lambda at: {**working(at), "metrics": engine_metrics(at, waiting=int(at < 15.0))}),
        ("no figures", lambda at: {**working(at), "metrics": None}),
        ("figures without preemptions", lambda at: {**working(at), "metrics": engine_metrics(at, preemptions=None)}),
    ],
)
def test_a_silence_that_may_have_a_reason_waits_a_bounded_time(
    name: str, evidence: Callable[[float], dict[str, object]]
) -> None:
    at = lost_at(played(answers=0.1), evidence, 60.0)
    assert at is not None
    assert at >= SINCE + PATIENT_S


def test_no_stream_is_lost_before_another_has_overtaken_it() -> None:
    """A long step, in which nothing is answered, holds up all alike."""
    engine = played(answers=None)
    assert lost_at(engine, working, 20.0) is None
    assert len(engine.probes) == 1


def test_requests_in_the_queue_need_no_probe() -> None:
    engine = played(answers=0.1)
    lost_at(engine, lambda at: {**working(at), "metrics": engine_metrics(at, waiting=3)}, 20.0)
    assert len(engine.probes) <= 1


@given(
    gaps=st.lists(st.floats(0.0, 9.0), max_size=60),
    kinds=st.lists(st.sampled_from(["tokens", "steps", "generated", "preemptions", "kv_use"]), min_size=1, unique=True),
    answers=st.one_of(st.none(), st.floats(0.01, 20.0)),
    pace_s=st.floats(0.0, 10.0),
)
def test_an_engine_that_works_at_least_every_nine_seconds_is_never_stuck(
    gaps: Iterable[float], kinds: list[str], answers: float | None, pace_s: float
) -> None:
    engine = played(answers=answers)
    for done, gap in enumerate(gaps):
        engine.runs(gap, lambda at, done=done: _work(kinds, done, pace_s))  # type: ignore[misc] # a default argument


def _work(kinds: list[str], done: int, pace_s: float) -> dict[str, object]:
    """One of the kinds changes with each step."""
    counts = {name: done // len(kinds) + (name in kinds[: done % len(kinds)]) for name in kinds}
    made = {name: float(counts.get(name, 0)) for name in ("generated", "preemptions", "kv_use")}
    kv_use = (made["kv_use"] % 7) / 7
    return {
        "tokens": counts.get("tokens", 0),
        "steps": counts.get("steps", 0),
        "metrics": EngineMetrics(1, 0, kv_use, made["preemptions"], made["generated"], 0.0),
        "pace_s": pace_s,
    }


@given(pace_s=st.floats(0.0, 1e6), answers=st.floats(0.01, 60.0), first=st.floats(0.0, 1e6))
def test_an_engine_that_does_nothing_is_detected_in_two_minutes_whatever_its_pace(
    pace_s: float, answers: float, first: float
) -> None:
    engine = played(answers=answers, first_answer_s=first)
    engine.runs(30.0, lambda at: {"tokens": int(at * 4), "pace_s": pace_s})
    tokens, engine.answers, began = int(engine.now * 4) - 1, None, engine.now
    engine.until_stuck(began + 4 * MAX_STEP_S + 5.0, lambda at: {"tokens": tokens, "pace_s": pace_s})
