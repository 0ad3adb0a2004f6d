"""Who is admitted by the limits of a key, what is counted for whom, and what peers receive of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import Any, cast

import pytest

from node_agent.contract.errors import LimitExceeded, RequestRejected
from node_agent.core.access.caller import ANYBODY, Caller, KeyLimits, Scope
from node_agent.core.access.key_usage import Limit, digest_of
from node_agent.core.access.peer_usage import UsageReport
from node_agent.core.access.token_estimate import Count, Estimate
from node_agent.core.membership import Event, LocalKeyUsageSet
from node_agent.core.membership.wire.key_usage import MAX_KEYS, read_key_usage, write_key_usage
from node_agent.core.streams.stream_machine import StreamMachine
from node_agent.runtime.client_api import key_table
from node_agent.runtime.client_api.buffered_request import ClientGone
from node_agent.runtime.client_api.key_limits import KeyLimiter
from node_agent.runtime.common.metrics import MAX_KEY_LABELS
from node_agent.runtime.node.context import NodeContext
from node_agent.testing.fake_requests import MemoryRequest
from tests.borders.virtual_time import run_virtual
from tests.unit.runtime.a_node import make_node

SMALL = Estimate(10, 20)


class Stage:
    """A limiter of a node, and what it sends and charges. now: its clock, in seconds."""

    def __init__(self, peers: int = 0) -> None:
        self.node: NodeContext = make_node(peers)
        self.now = 100.0
        self.node.gossip.monotonic = lambda: self.now
        self.settled: list[tuple[str, int, int]] = []
        self.limiter = KeyLimiter(self.node, self)
        self.limiter._now = self.limiter.table.now = lambda: self.now
        self.reports: list[dict[bytes, UsageReport]] = []
        self.node.gossip.handle = self._on_event  # type: ignore[method-assign]

    def _on_event(self, event: Event) -> bytes | None:
        assert isinstance(event, LocalKeyUsageSet)
        self.reports.append(dict(read_key_usage(event.packed)))
        return None

    def used(self, key: str, tokens: int, paid: int) -> None:
        self.settled.append((key, tokens, paid))

    def give_back(self, key: str, paid: int) -> None:
        self.settled.append((key, 0, paid))

    def peer(self, number: int = 1) -> bytes:
        return self.node.members.members[f"i-{number}"].boot_id

    def metric(self, line: str) -> bool:
        return line.encode() in self.node.metrics.exposition()


def caller(key_id: str = "k1", **limits: int) -> Caller:
    return Caller(key_id, "a key", frozenset(Scope), KeyLimits(**limits))


def play(story: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(story())


def test_a_caller_without_limits_is_admitted_and_nothing_is_kept_of_it() -> None:
    async def story() -> None:
        stage = Stage()
        request = MemoryRequest()
        for who in (ANYBODY, caller()):
            (await stage.limiter.begin(request, who, SMALL)).close(200, Count(4, 5))
        assert request.response_headers == {}
        assert len(stage.limiter.table) == 0
        assert stage.metric('synkti_key_requests_total{key="k1",outcome="admitted"} 1.0')
        assert stage.metric('synkti_key_tokens_total{key="k1"} 9.0')
        assert not stage.metric('key=""')

    play(story)


def test_requests_beyond_a_limit_are_refused_with_the_figures() -> None:
    async def story() -> None:
        stage, who = Stage(), caller(requests_per_minute=2, tokens_per_minute=1_000)
        for _ in range(2):
            await stage.limiter.begin(MemoryRequest(), who, SMALL)
        request = MemoryRequest()
        with pytest.raises(LimitExceeded, match="limit 2, used 2, requested 1") as refused:
            await stage.limiter.begin(request, who, SMALL)
        assert (refused.value.kind, refused.value.is_final) == ("requests", False)
        assert refused.value.retry_after_s == 60.0
        assert request.response_headers[b"x-ratelimit-remaining-requests"] == b"0"
        assert request.response_headers[b"x-ratelimit-remaining-tokens"] == b"940"
        assert stage.metric('synkti_key_requests_total{key="k1",outcome="refused-requests"} 1.0')
        stage.now += 61
        await stage.limiter.begin(MemoryRequest(), who, SMALL)

    play(story)


@pytest.mark.parametrize("limit", ["requests_per_minute", "tokens_per_minute", "streams"])
def test_a_limit_of_zero_is_a_refusal_that_no_retry_changes(limit: str) -> None:
    async def story() -> None:
        with pytest.raises(RequestRejected, match="its limit is 0") as refused:
            await Stage().limiter.begin(MemoryRequest(), caller("k1", **{limit: 0}), SMALL)
        assert (refused.value.status, refused.value.code) == (403, "limit_is_zero")

    play(story)


def test_a_prompt_beyond_the_limit_is_refused_for_good_and_one_just_below_it_is_not() -> None:
    async def story() -> None:
        stage = Stage()
        with pytest.raises(LimitExceeded, match="too large") as refused:
            await stage.limiter.begin(MemoryRequest(), caller(tokens_per_minute=100), Estimate(101, 1))
        assert refused.value.is_final
        await stage.limiter.begin(MemoryRequest(), caller(tokens_per_minute=100), Estimate(99, 5_000))

    play(story)


def test_a_buffered_answer_is_counted_as_its_engine_counted_it() -> None:
    async def story() -> None:
        stage, who = Stage(), caller(tokens_per_minute=1_000)
        started = await stage.limiter.begin(MemoryRequest(), who, SMALL)
        usage = stage.limiter.table.key(who).usage
        assert usage.used(stage.now, Limit.TOKENS) == 30
        started.paid = 30  # it waited
        for _ in range(2):
            started.close(200, Count(prompt=15, answer=70))
        assert usage.used(stage.now, Limit.TOKENS) == 85
        assert stage.settled == [("k1", 85, 30)]
        (await stage.limiter.begin(MemoryRequest(), who, SMALL)).close(400)
        assert usage.used(stage.now, Limit.TOKENS) == 85  # an engine that refuses a prompt computes nothing

    play(story)


def test_an_open_stream_is_counted_once_a_second_and_at_its_end() -> None:
    async def story() -> None:
        stage, who, machine = Stage(), caller(tokens_per_minute=1_000), SimpleNamespace(tokens=0, prompt_tokens=0)
        started = await stage.limiter.begin(MemoryRequest(), who, SMALL)
        started.watch(cast(StreamMachine, machine))
        usage = stage.limiter.table.key(who).usage
        machine.tokens = 200
        stage.limiter.table.tick()
        assert usage.used(stage.now, Limit.TOKENS) == 210
        machine.tokens, machine.prompt_tokens = 220, 12
        stage.limiter.table.tick()  # within the same second
        assert usage.used(stage.now, Limit.TOKENS) == 210
        started.close()
        assert usage.used(stage.now, Limit.TOKENS) == 232
        assert usage.streams == 0
        assert stage.metric('synkti_key_tokens_total{key="k1"} 232.0')

    play(story)


def test_a_resumed_stream_is_never_refused_and_counts_only_what_comes_now() -> None:
    async def story() -> None:
        stage, who = Stage(), caller(requests_per_minute=1, tokens_per_minute=100, streams=1)
        await stage.limiter.begin(MemoryRequest(), who, Estimate(90, 10))
        for limits in (who, caller(requests_per_minute=0)):
            resumed = stage.limiter.resume(limits)
            machine = SimpleNamespace(tokens=500, prompt_tokens=90)
            resumed.watch(cast(StreamMachine, machine))
            machine.tokens = 507
            resumed.close()
        usage = stage.limiter.table.key(who).usage
        assert usage.report(stage.now)[:3] == (1, 114, 1)
        assert stage.metric('synkti_key_tokens_total{key="k1"} 14.0')
        assert stage.settled == []  # its first entry settles what a turn there has paid

    play(story)


def test_a_request_that_no_engine_took_is_not_counted() -> None:
    async def story() -> None:
        stage, who = Stage(), caller(requests_per_minute=1, tokens_per_minute=1_000, streams=1)
        started = await stage.limiter.begin(MemoryRequest(), who, SMALL)
        started.paid = 30
        started.undo()
        started.close()
        assert stage.settled == [("k1", 0, 30)]
        assert stage.limiter.table.key(who).usage.report(stage.now)[:3] == (0, 0, 0)
        await stage.limiter.begin(MemoryRequest(), who, SMALL)

    play(story)


def test_a_request_waits_for_its_share_until_the_peers_demand_is_known() -> None:
    async def story() -> None:
        stage, who = Stage(peers=9), caller(requests_per_minute=3)
        loop = asyncio.get_running_loop()
        stage.limiter._now = stage.limiter.table.now = loop.time
        begun = loop.time()
        for _ in range(2):
            await stage.limiter.begin(MemoryRequest(), who, SMALL)
        assert loop.time() - begun >= stage.limiter.table.fleet().settle_s - 0.1
        assert stage.metric('synkti_key_requests_total{key="k1",outcome="admitted"} 2.0')

    run_virtual(story, sockets=False)


def test_a_client_that_leaves_while_it_waits_takes_nothing() -> None:
    async def story() -> None:
        stage, who = Stage(peers=9), caller(requests_per_minute=3)
        loop = asyncio.get_running_loop()
        stage.limiter._now = stage.limiter.table.now = loop.time
        key = stage.limiter.table.key(who)
        clients = [MemoryRequest() for _ in range(3)]
        waiting = [asyncio.ensure_future(stage.limiter.begin(each, who, SMALL)) for each in clients]
        await asyncio.sleep(0.3)
        held = key.held
        for client in clients:
            client.disconnect()
        ends = await asyncio.gather(*waiting, return_exceptions=True)
        assert held == sum(isinstance(end, ClientGone) for end in ends) >= 2
        assert key.held == 0

    run_virtual(story, sockets=False)


def test_peers_reports_count_and_new_demand_is_reported_at_once() -> None:
    async def story() -> None:
        stage, who = Stage(peers=2), caller(requests_per_minute=100)
        stage.limiter.table.on_report(stage.peer(), write_key_usage([(digest_of("k1"), UsageReport(requests=100))]))
        with pytest.raises(LimitExceeded):
            await stage.limiter.begin(MemoryRequest(), who, SMALL)
        stage.limiter.table.tick()
        assert stage.reports == [{digest_of("k1"): UsageReport(demanded=1, demanded_tokens=10)}]
        stage.limiter.table.tick()
        assert len(stage.reports) == 1  # not before its turn

    play(story)


def test_reports_end_a_while_after_nothing_is_used_any_more() -> None:
    async def story() -> None:
        stage, who = Stage(peers=2), caller(requests_per_minute=100)
        (await stage.limiter.begin(MemoryRequest(), who, SMALL)).close()
        for _ in range(300):
            stage.now += 0.5
            stage.limiter.table.tick()
        assert len(stage.reports) < 150
        assert [report[digest_of("k1")] == UsageReport() for report in stage.reports][-4:] == [False, True, True, True]

    play(story)


def test_many_keys_are_reported_in_turns() -> None:
    async def story() -> None:
        stage = Stage(peers=2)
        ids = [f"k{number}" for number in range(MAX_KEYS + 8)]
        for key_id in ids:
            await stage.limiter.begin(MemoryRequest(), caller(key_id, requests_per_minute=900), SMALL)
        for _ in range(2):
            stage.limiter.table.tick()
            stage.now += 1.0
        assert {digest for report in stage.reports for digest in report} == {digest_of(key_id) for key_id in ids}
        assert all(len(report) <= MAX_KEYS for report in stage.reports)

    play(story)


def test_the_table_of_keys_is_bounded_and_idle_ones_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_table, "MAX_KEYS_HELD", 4)

    async def story() -> None:
        stage = Stage(peers=1)
        table = stage.limiter.table
        for number in range(9):
            table.on_report(stage.peer(), write_key_usage([(bytes([number]) * 8, UsageReport(requests=1))]))
        assert len(table) == 4
        stage.now += 90.0
        await stage.limiter.begin(MemoryRequest(), caller(requests_per_minute=9), SMALL)
        assert len(table) == 5
        table.tick()
        assert len(table) == 1

    play(story)


def test_labels_of_keys_are_bounded() -> None:
    async def story() -> None:
        stage = Stage()
        for number in range(MAX_KEY_LABELS + 20):
            await stage.limiter.begin(MemoryRequest(), caller(f"key-{number}"), SMALL)
        text = stage.node.metrics.exposition().decode()
        assert text.count("synkti_key_requests_total{") == MAX_KEY_LABELS + 1
        assert 'synkti_key_requests_total{key="other",outcome="admitted"} 20.0' in text

    play(story)
