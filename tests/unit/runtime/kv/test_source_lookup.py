"""The sources of a context: which are asked, in which order, and that none costs more than its time."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from local.lone_node import lone_node
from node_agent.contract.names import IN_S3
from node_agent.contract.states import NodeState
from node_agent.core.common.address import Address
from node_agent.core.failure.loss import LossReason
from node_agent.core.kv.transfer_policy import ContextSource
from node_agent.ports import ExchangeLost
from node_agent.runtime.kv import source_lookup
from node_agent.runtime.kv.server import INDEX_OF
from node_agent.runtime.kv.source_lookup import MAX_PEERS, candidate_peers
from tests.unit.runtime.a_node import status_of
from tests.unit.runtime.kv.kv_stage import (
    STREAM,
    AnsweringPeer,
    NoPeers,
    Store,
    contexts,
    lay,
    make_node,
    run,
    shelf,
)


@pytest.mark.parametrize(
    ("source", "state", "is_read"),
    [
        (IN_S3, NodeState.READY, True),
        ("i-1", NodeState.DRAINING, True),
        ("i-1", NodeState.GONE, True),
        ("i-1", NodeState.READY, False),
        ("i-1", NodeState.STARTING, False),
        ("i-forgotten", NodeState.READY, True),
        ("i-0", NodeState.DRAINING, False),
    ],
)
def test_s3_is_read_only_where_a_node_may_have_uploaded_the_context(
    tmp_path: Path, source: str, state: NodeState, is_read: bool
) -> None:
    async def story() -> None:
        store, node = Store(), make_node(state)
        assert await contexts(shelf(tmp_path), store, node).fetch(STREAM, source) is None
        assert bool(store.lookups) is is_read

    run(story)


def test_only_a_peer_that_is_alive_gets_a_request(tmp_path: Path) -> None:
    async def story() -> None:
        for source, state, requests in (
            ("i-1", NodeState.DRAINING, 1),
            ("i-1", NodeState.GONE, 0),
            ("i-9", NodeState.READY, 0),
        ):
            peers, node = NoPeers(), make_node(state)
            assert await contexts(shelf(tmp_path), None, node, peers).fetch(STREAM, source) is None
            assert peers.requests == [f"10.0.0.2:1 {INDEX_OF}{STREAM}"] * requests

    run(story)


class Several:
    """Peers by their addresses; no other address answers."""

    def __init__(self, peers: dict[str, AnsweringPeer]) -> None:
        self._peers = peers
        self.requests: list[str] = []

    async def open(self, address: Address, method: str, target: str, **_: Any) -> Any:
        self.requests.append(str(address))
        if str(address) not in self._peers:
            raise ExchangeLost(LossReason.REFUSED)
        return await self._peers[str(address)].open(address, method, target)


@pytest.mark.parametrize("source", ["i-1", "i-2", IN_S3, "i-forgotten"])
def test_the_draining_peer_with_the_most_blocks_is_the_source(tmp_path: Path, source: str) -> None:
    async def story() -> None:
        answering = {}
        for number, blocks in ((2, 5), (3, 20)):
            path = tmp_path / f"{number}"
            lay(path, STREAM, blocks)
            index = await shelf(path).index(STREAM)
            assert index is not None
            data = await shelf(path).read(index.names, 10**9)
            answering[f"10.0.0.{number}:1"] = AnsweringPeer(index.to_bytes(), data)
        states = {1: NodeState.READY, 2: NodeState.DRAINING, 3: NodeState.DRAINING, 4: NodeState.GONE}
        statuses = [replace(status_of(n, state), peer_address=f"10.0.0.{n}:1") for n, state in states.items()]
        node, peers = lone_node(status_of(0), statuses, lambda: 0.0), Several(answering)
        fetched = await contexts(shelf(tmp_path / "mine"), None, node, peers).fetch(STREAM, source)
        assert fetched is not None
        assert (fetched.choice.source, fetched.blocks) == (ContextSource.PEER, 20)
        named = {"i-1": {"10.0.0.1:1"}}.get(source, set())
        assert set(peers.requests) == {"10.0.0.2:1", "10.0.0.3:1"} | named

    run(story)


def test_only_a_few_of_many_draining_peers_get_a_request(tmp_path: Path) -> None:
    async def story() -> None:
        statuses = [replace(status_of(n, NodeState.DRAINING), peer_address=f"10.0.0.{n}:1") for n in range(1, 30)]
        node, peers = lone_node(status_of(0), statuses, lambda: 0.0), Several({})
        assert await contexts(shelf(tmp_path), None, node, peers).fetch(STREAM, "i-17") is None
        assert len(set(peers.requests)) == len(peers.requests) == MAX_PEERS
        assert "10.0.0.17:1" in peers.requests

    run(story)


def test_a_store_that_is_down_or_stuck_costs_only_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_lookup, "_S3_INDEX_WITHIN_S", 0.05)

    async def story() -> None:
        down, stuck = Store(), Store()
        down.down = stuck.stuck = True
        assert await contexts(shelf(tmp_path), down).fetch(STREAM, IN_S3) is None
        assert await contexts(shelf(tmp_path), stuck).fetch(STREAM, IN_S3) is None
        assert stuck.lookups == [STREAM]

    run(story)


def test_a_peer_that_is_cut_off_is_waited_for_until_the_index_timeout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source_lookup, "_INDEX_WITHIN_S", 0.05)

    class CutOff:
        async def open(self, *_: Any, **__: Any) -> Any:
            await asyncio.Event().wait()

    async def story() -> None:
        async with asyncio.timeout(5):
            assert await contexts(shelf(tmp_path), None, peers=CutOff()).fetch(STREAM, "i-1") is None

    run(story)


HOSTILE_INDEXES = {
    "nothing": b"",
    "no JSON": b"\xff\x00<html>",
    "null": b"null",
    "a list": b"[1,2,3]",
    "no fingerprint": b'{"names":[],"sizes":[],"object":""}',
    "names of another kind": b'{"fingerprint":"%s","names":[1],"sizes":[200],"object":""}' % (b"00" * 16),
    "a path": b'{"fingerprint":"%s","names":["../../x.kv"],"sizes":[200],"object":""}' % (b"00" * 16),
    "a negative size": b'{"fingerprint":"%s","names":["%s.kv"],"sizes":[-1],"object":""}' % (b"00" * 16, b"0" * 64),
    "a size beyond any": b'{"fingerprint":"%s","names":["%s.kv"],"sizes":[1e18],"object":""}' % (b"00" * 16, b"0" * 64),
}


@pytest.mark.parametrize("what", HOSTILE_INDEXES)
def test_an_invalid_index_is_no_context(tmp_path: Path, what: str) -> None:
    async def story() -> None:
        peer = AnsweringPeer(HOSTILE_INDEXES[what], b"")
        assert await contexts(shelf(tmp_path), None, peers=peer).fetch(STREAM, "i-1") is None

    run(story)


def test_the_last_node_is_asked_first_whatever_its_state_then_nodes_that_drain() -> None:
    states = {1: NodeState.DRAINING, 2: NodeState.READY, 3: NodeState.DRAINING, 4: NodeState.READY, 5: NodeState.GONE}
    alive = [status_of(number, state) for number, state in states.items()]
    assert candidate_peers(alive, "i-2") == ["i-2:1", "i-1:1", "i-3:1"]
    assert candidate_peers(alive, "i-3") == ["i-3:1", "i-1:1"]
    assert candidate_peers(alive, "i-5") == ["i-1:1", "i-3:1"]
    assert candidate_peers([], "i-1") == []
