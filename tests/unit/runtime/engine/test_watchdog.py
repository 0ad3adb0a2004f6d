"""The watch of a node's engine, on virtual time, with an engine that a test plays."""

from __future__ import annotations

import asyncio

import pytest

from node_agent.core.continuation.timeouts import FIRST_TOKEN_S, MIN_INTER_TOKEN_S
from node_agent.core.engine.liveness import STUCK_S
from node_agent.core.failure.loss import LossReason
from tests.unit.runtime.engine.watched_engine import WITHIN_S, Stage, run_scenario


def test_a_core_that_hangs_is_detected_and_all_its_requests_are_lost_at_once() -> None:
    async def story(stage: Stage) -> None:
        calls = [stage.request(), stage.request(900.0), stage.request(own=False)]
        for each in calls:
            stage.generate(each, 0.05)
        await stage.runs(60.0)
        stage.engine.step_s = None
        took, why = await stage.stuck()
        assert took <= WITHIN_S
        assert "a probe is not answered" in why
        assert stage.lost(*calls) == [LossReason.ENGINE_STUCK] * 3

    run_scenario(story)


def test_streams_that_end_during_a_hang_are_no_work_of_the_engine() -> None:
    """Clients give up one after another. In a chaos run each of them hid the hang for the whole bound again."""

    async def story(stage: Stage) -> None:
        calls = [stage.request() for _ in range(6)]
        for each in calls:
            stage.generate(each, 0.05)
        await stage.runs(60.0)
        stage.engine.step_s = None

        async def give_up() -> None:
            for each in calls[:5]:
                await asyncio.sleep(STUCK_S / 3)
                each.close()

        stage.tasks.append(asyncio.create_task(give_up()))
        took, _ = await stage.stuck()
        assert took <= WITHIN_S

    run_scenario(story)


def test_an_engine_that_is_suspended_from_outside_is_restarted_and_suspects_nobody() -> None:
    async def story(stage: Stage) -> None:
        call = stage.request()
        stage.generate(call, 0.05)
        await stage.runs(60.0)
        stage.engine.step_s, stage.engine.suspended = None, True
        _, why = await stage.stuck()
        assert why.endswith("a process of it is stopped by a signal")
        assert stage.lost(call) == [LossReason.ENGINE_KILLED]

    run_scenario(story)


def test_an_idle_engine_that_hangs_is_detected_before_a_request_arrives() -> None:
    async def story(stage: Stage) -> None:
        await stage.runs(600.0)
        assert stage.watch._node.metrics.engine_probes.labels("answered")._value.get() >= 1
        stage.engine.step_s = None
        took, _ = await stage.stuck()
        assert took <= WITHIN_S
        assert stage.engine.most_at_once == 1

    run_scenario(story)


def test_an_engine_frozen_with_its_api_server_is_detected_sooner() -> None:
    async def story(stage: Stage) -> None:
        stage.generate(stage.request(), 0.05)
        await stage.runs(60.0)
        stage.engine.step_s, stage.engine.deaf = None, True
        took, _ = await stage.stuck()
        assert took <= STUCK_S / 2 + 2.0

    run_scenario(story)


@pytest.mark.parametrize("seconds", [2.5, 5.0, 9.0])
def test_a_model_of_seconds_a_token_loses_nothing(seconds: float) -> None:
    async def story(stage: Stage) -> None:
        calls = [stage.request() for _ in range(3)]
        made = [stage.generate(each, seconds, tokens=40) for each in calls]
        await stage.runs(seconds * 41)
        assert all(task.done() for task in made)
        assert [each.reads for each in calls] == [40] * 3

    run_scenario(story, step_s=2 * seconds)


def test_streams_without_kv_blocks_are_silent_and_not_lost() -> None:
    """vLLM's behaviour under KV preemption: some streams wait for fifteen seconds, others continue."""

    async def story(stage: Stage) -> None:
        calls = [stage.request() for _ in range(6)]
        for each in calls:
            stage.generate(each, 0.05, tokens=100 if each.key % 2 else 100_000)
        await stage.runs(4.0)
        for _ in range(20):  # one waits at any time, until the others are through
            stage.engine.preemptions += 1
            stage.engine.waiting = 3
            await stage.runs(1.0)
        stage.engine.waiting = 0
        await stage.runs(FIRST_TOKEN_S - 5.0)  # and is then read again
        assert stage.lost(*calls) == [None] * 6

    run_scenario(story)


def test_a_long_prefill_beside_other_streams_delays_them_and_loses_none() -> None:
    async def story(stage: Stage) -> None:
        calls = [stage.request() for _ in range(3)]
        for each in calls:
            stage.generate(each, 0.05)
        await stage.runs(10.0)
        stage.engine.step_s = None
        await stage.runs(8.0)
        stage.engine.step_s = 0.02
        await stage.runs(30.0)
        assert stage.lost(*calls) == [None] * 3

    run_scenario(story)


def test_a_stream_that_hangs_in_a_working_engine_is_lost_alone() -> None:
    """As one does whose engine had its drain's time: its socket stays open."""

    async def story(stage: Stage) -> None:
        hangs, well, of_peer, whole = stage.request(), stage.request(), stage.request(own=False), stage.request(900.0)
        stage.generate(well, 0.05)
        for each in (hangs, of_peer, whole):
            stage.generate(each, 0.05, tokens=20)
        await stage.runs(1.1)
        calls = (hangs, well, of_peer, whole)
        await stage.runs(MIN_INTER_TOKEN_S - 0.3)
        assert stage.lost(*calls) == [None] * 4
        await stage.runs(3.0)
        assert stage.lost(*calls) == [LossReason.SILENCE, None, None, None]
        assert [of_peer.is_overtaken, whole.is_overtaken] == [True, False], "its entry judges what is a peer's"

    run_scenario(story)


def test_without_metrics_a_silence_may_last_as_long_as_a_first_token() -> None:
    async def story(stage: Stage) -> None:
        hangs, well = stage.request(), stage.request()
        stage.generate(well, 0.05)
        stage.generate(hangs, 0.05, tokens=20)
        await stage.runs(FIRST_TOKEN_S)
        assert stage.lost(hangs) == [None]
        await stage.runs(5.0)
        assert stage.lost(hangs) == [LossReason.SILENCE]

    run_scenario(story, shows=False)


def test_a_client_that_does_not_read_is_no_silence_of_the_engine() -> None:
    async def story(stage: Stage) -> None:
        call = stage.request()
        await stage.generate(call, 0.05, tokens=20)
        call.pause(True)
        await stage.runs(600.0)
        assert stage.lost(call) == [None]

    run_scenario(story)


def test_the_pauses_of_a_slow_reader_are_not_the_pace_of_the_engine() -> None:
    """Else one reader that stalls for minutes makes the bound for a hang as long, or loses its stream as it resumes."""

    async def story(stage: Stage) -> None:
        call = stage.request()
        for _ in range(3):
            await stage.generate(call, 0.05, tokens=5)
            call.pause(True)
            await stage.runs(120.0)
            call.pause(False)
        await stage.generate(call, 0.05, tokens=5)
        assert call.reads == 20, "it was lost as it resumed"
        assert call.time_per_token_s == pytest.approx(0.05, abs=0.02)
        stage.engine.step_s = None
        took, _ = await stage.stuck()
        assert took <= WITHIN_S

    run_scenario(story)


def test_a_stream_that_was_paused_before_its_first_token_is_silent_only_from_its_resumption() -> None:
    async def story(stage: Stage) -> None:
        call, other = stage.request(), stage.request()
        stage.generate(other, 0.05)
        call.pause(True)
        await stage.runs(600.0)
        call.pause(False)
        await stage.runs(2.0)
        assert stage.lost(call) == [None]

    run_scenario(story)


def test_an_engine_stuck_before_its_first_token_gives_the_next_one_more_time() -> None:
    """One that compiles at the first request that needs it would otherwise be restarted for ever."""

    async def story(stage: Stage) -> None:
        took: list[float] = []
        for _ in range(3):
            stage.request()
            stage.engine.step_s = None
            took.append((await stage.stuck(within_s=90.0))[0])
            stage.watching = asyncio.create_task(stage.watch.until_stuck(0.02))
        assert took[1] >= 1.5 * took[0]
        assert took[2] >= 1.5 * took[1]
        stage.engine.step_s = 0.02
        stage.generate(stage.request(), 0.05)
        await stage.runs(5.0)
        stage.engine.step_s = None
        await stage.stuck(within_s=90.0)
        stage.watching = asyncio.create_task(stage.watch.until_stuck(0.02))
        assert (await stage.stuck())[0] <= WITHIN_S, "it has worked in between"

    run_scenario(story)


def test_steps_that_the_plugin_counts_are_progress_without_other_signs() -> None:
    """A long prompt in pieces, behind an API server that answers nothing meanwhile."""

    async def story(stage: Stage) -> None:
        stage.generate(stage.request(), 0.05)
        await stage.runs(10.0)
        stage.engine.step_s, stage.engine.deaf = None, True
        for step in range(100):
            stage.steps.steps = step
            await stage.runs(1.0)
        await stage.stuck()
        assert stage.steps.steps is None, "the next engine counts anew"

    run_scenario(story)
