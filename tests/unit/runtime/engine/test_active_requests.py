"""Test the registry of the requests at an engine: what is counted, and how requests are handed off."""

from __future__ import annotations

from node_agent.core.drain.planner import ServedStream
from node_agent.core.failure.loss import EngineDeath, Handoff, LossReason
from tests.unit.runtime.engine.engine_stage import Exchange, Stage, play


def receive(exchange: Exchange, reads: int, *, first_at: float, last_at: float) -> None:
    """So many reads of a stream arrived."""
    exchange.is_event_stream = True
    exchange.reads, exchange.first_read_at, exchange.last_read_at = reads, first_at, last_at


def test_a_request_is_active_until_it_is_closed() -> None:
    async def story(stage: Stage) -> None:
        first, _ = stage.request()
        second, _ = stage.request()
        assert stage.served.active() == [first, second]
        first.close()
        first.close()
        assert (stage.served.active(), len(stage.served)) == ([second], 1)

    play(story)


def test_tokens_are_counted_without_a_streams_opening_and_stay_when_it_is_over() -> None:
    async def story(stage: Stage) -> None:
        one, exchange = stage.request()
        stage.request()
        receive(exchange, 10, first_at=1.0, last_at=5.0)
        for _ in range(2):
            assert stage.served.tokens() == 8
            assert stage.served.has_token_since(4.9)
            assert not stage.served.has_token_since(5.0)
            one.close()

    play(story)


def test_an_error_and_a_buffered_answer_are_no_tokens() -> None:
    async def story(stage: Stage) -> None:
        for is_stream, status in ((True, 500), (False, 200)):
            _, exchange = stage.request()
            receive(exchange, 10, first_at=1.0, last_at=5.0)
            exchange.is_event_stream, exchange.status = is_stream, status
        assert stage.served.tokens() == 0

    play(story)


def test_only_requests_that_were_sent_and_are_read_are_silent() -> None:
    async def story(stage: Stage) -> None:
        (silent, at_5), (_, at_7), (paused, paused_at), (_, never) = (stage.request() for _ in range(4))
        at_5.last_read_at, at_7.last_read_at, paused_at.last_read_at, never.last_read_at = 5.0, 7.0, 5.0, 0.0
        paused.pause(True)
        assert stage.served.silent_since(6.0) == [silent]

    play(story)


def test_the_pace_is_the_mean_of_the_streams_and_the_last_one_where_there_are_none() -> None:
    async def story(stage: Stage) -> None:
        assert (stage.served.time_per_token_s(), stage.served.min_time_per_token_s()) == (0.0, 0.0)
        for last_at in (2.0, 4.0):
            receive(stage.request()[1], 11, first_at=1.0, last_at=last_at)
        assert (stage.served.time_per_token_s(), stage.served.min_time_per_token_s()) == (0.2, 0.1)
        for call in stage.served.active():
            call.close()
        assert (stage.served.time_per_token_s(), stage.served.min_time_per_token_s()) == (0.2, 0.0)

    play(story)


def test_a_request_is_handed_off_once_and_is_then_no_stream_to_plan() -> None:
    async def story(stage: Stage) -> None:
        first, exchange = stage.request()
        second, other = stage.request()
        receive(other, 40, first_at=1.0, last_at=1.0)
        assert stage.served.hand_off(first.key, "i-7") is first
        assert stage.served.hand_off(first.key, "i-8") is None
        assert stage.served.hand_off(99, "i-8") is None
        assert exchange.feed.get_nowait() == Handoff("i-7")
        assert stage.served.streams() == [ServedStream(second.key, 60, 0.0, 40)]
        assert stage.served.hand_off_all() == [second]
        assert other.feed.get_nowait() == Handoff(None)
        assert stage.served.streams() == []

    play(story)


def test_all_requests_of_a_stuck_engine_are_lost_and_it_has_ended() -> None:
    async def story(stage: Stage) -> None:
        one, _ = stage.request()
        stage.served.abort_all(LossReason.ENGINE_STUCK)
        assert stage.lifetimes.current.has_ended
        assert await stage.loss(one.head()) == EngineDeath(LossReason.ENGINE_STUCK, "1", alone=True)

    play(story)
