"""Test the list of nodes: entries, discovery, and its refresh."""

from __future__ import annotations

import asyncio
import json

import pytest

from synkti_client import AsyncContinuousTransport, NoNodeAnswers, RetryPolicy, httpx
from synkti_client._attempts import Attempts
from synkti_client._nodes import Nodes
from tests.unit.client.scripted import NODES, QUICK


def test_an_invalid_entry_of_a_list_is_left_out() -> None:
    nodes = Nodes(["http://a:1"])
    fronts = ["b:1", "c:99999", "d e:1", "[::1", "", "f:0", "[::1]:8000"]
    body = json.dumps({"nodes": [{"front": front, "model": "m"} for front in fronts]}).encode()
    assert nodes.update_from("http://a:1/v1/synkti/nodes", body)
    assert sorted(nodes.by_preference()) == ["http://[::1]:8000", "http://a:1", "http://b:1"]


def test_a_discovery_without_nodes_is_an_error_that_names_the_count() -> None:
    with pytest.raises(NoNodeAnswers, match="0 nodes are known"):
        Attempts(Nodes([], "http://lb/v1/synkti/nodes"), RetryPolicy()).begin()


def test_a_late_request_for_the_list_is_not_cancelled_and_is_awaited() -> None:
    """Cancelled while it connects, a request leaves its socket behind."""
    ended: list[str] = []

    class OneIsLate(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            if request.url.host != "a":
                await asyncio.sleep(0)
                await asyncio.sleep(0)
            ended.append(str(request.url.host))
            return httpx.Response(200, json={"nodes": [{"front": "a:1", "model": "m"}]})

    async def story() -> None:
        transport = AsyncContinuousTransport(Nodes(NODES), QUICK, OneIsLate())
        assert await transport.refresh()
        await transport.aclose()

    asyncio.run(story())
    assert sorted(ended) == ["a", "b", "c"]


def test_a_thousand_failures_at_once_query_the_list_once() -> None:
    """Each stream that lost its node used to query it: five times the requests, from a client that is busy already."""
    nodes = Nodes(NODES)
    queries = 0
    for number in range(1000):
        nodes.invalidate()
        queries += bool(nodes.list_urls(10.0 + number / 10_000))
    assert queries == 1
    nodes.invalidate()
    assert nodes.list_urls(10.3)


def test_timeouts_grow_with_each_round_over_all_nodes() -> None:
    """A client whose own loop is late would time out at every node for ever."""
    policy = RetryPolicy()
    assert [policy.growth(attempt, 3) for attempt in (0, 1, 3, 4, 6, 7, 10, 200)] == [1, 1, 1, 2, 2, 4, 8, 8]
    assert policy.growth(5, 0) == 8
