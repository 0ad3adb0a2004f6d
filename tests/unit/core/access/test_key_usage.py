"""One key's usage: what is counted, when it is refused and until when, and what peers' reports change."""

from __future__ import annotations

import pytest

from node_agent.core.access.caller import KeyLimits
from node_agent.core.access.key_usage import Admitted, KeyUsage, Limit, Refused, Wait, digest_of
from node_agent.core.access.peer_usage import NOTHING, UsageReport, fleet_shape

ALONE = fleet_shape(b"me", [], 1)
TWO = fleet_shape(b"me", [b"peer"], 2)


def usage_of(**limits: int) -> KeyUsage:
    return KeyUsage(digest_of("k"), KeyLimits(**limits))


def admit(usage: KeyUsage, at: float, prompt: int = 1, answer: int = 0) -> object:
    usage.demand(at, prompt + answer)
    decision = usage.decide(at, max(1, prompt + answer), ALONE)
    return usage.admit(at, prompt, answer) if isinstance(decision, Admitted) else decision


def test_a_node_alone_admits_exactly_the_limit_and_names_when_to_retry() -> None:
    usage = usage_of(requests_per_minute=3)
    for at in (0.0, 10.0, 20.0):
        assert not isinstance(admit(usage, at), Refused)
    refused = admit(usage, 30.0)
    assert isinstance(refused, Refused)
    assert (refused.limit, refused.allowed, refused.used, refused.cost) == (Limit.REQUESTS, 3, 3, 1)
    assert refused.retry_after_s == pytest.approx(30.25)
    assert not isinstance(admit(usage, 30.0 + 30.5), Refused)
    assert isinstance(admit(usage, 61.0), Refused)


def test_tokens_are_reserved_at_first_then_counted_as_they_come() -> None:
    usage = usage_of(tokens_per_minute=100)
    use = usage.admit(0.0, 40, 30)
    assert usage.used(0.0, Limit.TOKENS) == 70
    usage.generated(1.0, use, 10)
    assert usage.used(1.0, Limit.TOKENS) == 70  # ten of what was reserved
    usage.generated(2.0, use, 50)
    usage.generated(2.0, use, 50)
    assert usage.used(2.0, Limit.TOKENS) == 90  # twenty more than that: an answer is not cut
    usage.close(3.0, use, 51, prompt=44)
    assert usage.used(3.0, Limit.TOKENS) == 95
    usage.close(3.0, use, 60, prompt=44)
    assert usage.used(3.0, Limit.TOKENS) == 95
    assert usage.used(61.0, Limit.TOKENS) == 55  # the prompt has left, its correction and the answer have not
    assert usage.report(200.0) == UsageReport()


def test_a_short_answer_returns_what_it_reserved() -> None:
    usage = usage_of(tokens_per_minute=100)
    use = usage.admit(0.0, 10, 60)
    usage.generated(1.0, use, 5)
    usage.close(1.0, use)
    assert usage.used(1.0, Limit.TOKENS) == 15


def test_a_prompt_larger_than_the_limit_is_refused_for_good() -> None:
    refused = usage_of(tokens_per_minute=100).decide(0.0, 101, ALONE)
    assert isinstance(refused, Refused)
    assert refused.retry_after_s is None


def test_streams_at_once_are_free_again_when_they_end() -> None:
    usage = usage_of(streams=2)
    uses = [usage.admit(0.0, 1, 0), usage.admit(0.0, 1, 0)]
    refused = usage.decide(0.1, 1, ALONE)
    assert isinstance(refused, Refused)
    assert (refused.limit, refused.retry_after_s) == (Limit.STREAMS, 1.0)
    usage.close(0.2, uses[0])
    assert isinstance(usage.decide(0.2, 1, ALONE), Admitted)


def test_a_resumed_stream_counts_as_open_and_as_nothing_else() -> None:
    usage = usage_of(requests_per_minute=1, tokens_per_minute=10, streams=1)
    usage.admit(0.0, 10, 0)
    resumed = usage.resume(1.0)
    assert usage.report(1.0)[:3] == (1, 10, 2)
    resumed.generated = 500  # what it had before
    usage.generated(2.0, resumed, 503)
    usage.close(2.0, resumed)
    assert usage.report(2.0)[:3] == (1, 13, 1)


def test_a_request_that_no_engine_took_leaves_no_trace() -> None:
    usage = usage_of(requests_per_minute=9, tokens_per_minute=100, streams=9)
    usage.undo(0.5, usage.admit(0.0, 10, 5))
    assert usage.report(0.5)[:3] == (0, 0, 0)


def test_what_peers_report_is_used_up_too() -> None:
    usage = usage_of(requests_per_minute=10, tokens_per_minute=1_000, streams=4)
    usage.peers.record(0.0, b"peer", UsageReport(10, 0, 0, 0, 0))
    refused = usage.decide(0.0, 1, TWO)
    assert isinstance(refused, Refused)
    assert (refused.limit, refused.used) == (Limit.REQUESTS, 10)
    usage.peers.record(1.0, b"peer", UsageReport(1, 995, 0, 0, 0))
    refused = usage.decide(1.0, 10, TWO)
    assert isinstance(refused, Refused)
    assert refused.limit is Limit.TOKENS
    usage.peers.record(2.0, b"peer", UsageReport(1, 0, 4, 0, 0))
    refused = usage.decide(2.0, 10, TWO)
    assert isinstance(refused, Refused)
    assert refused.limit is Limit.STREAMS


def test_what_a_lost_peer_reported_ages_out_within_the_minute_and_its_streams_at_once() -> None:
    usage = usage_of(requests_per_minute=10, streams=2)
    usage.peers.record(0.0, b"peer", UsageReport(requests=10, streams=2, demanded=3))
    assert isinstance(usage.decide(0.0, 1, TWO), Refused)
    usage.decide(10.0, 1, ALONE)
    assert (usage.used(10.0, Limit.REQUESTS), usage.used(10.0, Limit.STREAMS)) == (10, 0)
    assert not isinstance(usage.decide(61.0, 1, ALONE), Refused)
    assert usage.is_idle(61.0)


def test_a_peer_that_stops_reporting_its_streams_does_not_hold_them_for_ever() -> None:
    usage = usage_of(streams=2)
    usage.peers.record(0.0, b"peer", UsageReport(streams=2))
    assert isinstance(usage.decide(20.0, 1, TWO), Refused)
    assert not isinstance(usage.decide(31.0, 1, TWO), Refused)


def test_a_new_node_waits_where_another_one_may_have_the_last_of_it() -> None:
    decisions = []
    for own, peer in ((b"a", b"b"), (b"b", b"a")):
        usage = usage_of(requests_per_minute=1)
        usage.demand(0.0, 1)
        shape = fleet_shape(own, [peer], 2)
        decisions.append(type(usage.decide(0.0, 1, shape)))
        assert isinstance(usage.decide(shape.settle_s, 1, shape), Admitted)  # nobody else demanded
    assert sorted(decisions, key=str) == [Admitted, Wait]


def test_only_as_many_wait_as_can_be_served() -> None:
    usage = usage_of(requests_per_minute=5, tokens_per_minute=100, streams=9)
    assert usage.may_hold(0.0, 4, 20)
    assert not usage.may_hold(0.0, 5, 1)
    assert not usage.may_hold(0.0, 4, 21)
    usage.admit(0.0, 1, 0)
    assert not usage.may_hold(0.0, 4, 1)


def test_a_request_behind_others_waits_by_the_limit_that_the_key_has() -> None:
    for limits, limit in (
        ({"requests_per_minute": 2}, Limit.REQUESTS),
        ({"tokens_per_minute": 2}, Limit.TOKENS),
        ({"streams": 2}, Limit.STREAMS),
    ):
        assert usage_of(**limits).wait_in_line(0.0, 1).refusal.limit is limit


def test_the_time_until_the_limits_are_whole_again() -> None:
    usage = usage_of(requests_per_minute=5, tokens_per_minute=100)
    assert usage.reset_after_s(0.0) == 0.0
    use = usage.admit(0.0, 5, 5)
    assert usage.reset_after_s(20.0) == 60.0  # its answer is not at its end
    usage.close(20.0, use)
    assert usage.reset_after_s(20.0) == pytest.approx(40.25)
    usage.peers.record(20.0, b"peer", UsageReport(requests=1))
    usage.decide(20.0, 1, TWO)
    assert usage.reset_after_s(20.0) == 60.0


def test_the_first_request_for_a_while_is_news_to_peers() -> None:
    usage = usage_of(requests_per_minute=5)
    assert usage.demand(0.0, 1)
    assert not usage.demand(5.0, 1)
    assert usage.demand(30.0, 1)
    assert usage.report(100.0) == NOTHING
    assert usage.is_idle(100.0)
