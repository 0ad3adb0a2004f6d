"""Requests for indexes and blocks: bounded, and closed whatever comes back."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import orjson
import pytest

from node_agent.contract.errors import PeerRefused
from node_agent.core.common.address import Address
from node_agent.core.failure.loss import LossReason
from node_agent.core.kv.index import Index
from node_agent.ports import ExchangeLost
from node_agent.runtime.kv.block_client import BlockClient
from node_agent.runtime.kv.server import BLOCKS, INDEX_OF
from tests.unit.runtime.kv.kv_stage import MADE, STREAM

PEER = "10.0.0.2:1"
T = TypeVar("T")
INDEX = Index(MADE, ("0" * 64 + ".kv",), (200,))


class Peer:
    """A peer with one answer. requests: as it received them; open_responses: that were not closed."""

    def __init__(self, answer: bytes, status: int = 200) -> None:
        self.status = status
        self.requests: list[tuple[Address, str, str, dict[str, str], bytes]] = []
        self.open_responses = 0
        self._answer = answer

    async def open(
        self, address: Address, method: str, target: str, *, headers: dict[str, str], body: bytes, read_timeout_s: float
    ) -> Peer:
        self.requests.append((address, method, target, headers, body))
        self.open_responses += 1
        return self

    async def read_all(self, most: int) -> bytes:
        if len(self._answer) > most:
            raise ExchangeLost(LossReason.TOO_LARGE)
        return self._answer

    def close(self) -> None:
        self.open_responses -= 1


def client_of(peer: Any) -> BlockClient:
    return BlockClient(peer)


def result(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


def test_an_index_is_requested_by_its_stream() -> None:
    peer = Peer(INDEX.to_bytes())
    assert result(client_of(peer).index(PEER, STREAM)) == INDEX
    ((address, method, target, _, body),) = peer.requests
    assert (address, method, target, body) == (Address("10.0.0.2", 1), "GET", INDEX_OF + STREAM, b"")
    assert not peer.open_responses


def test_blocks_are_requested_by_their_names() -> None:
    peer = Peer(b"blocks")
    assert result(client_of(peer).blocks(PEER, INDEX.names, 6)) == b"blocks"
    ((_, method, target, _, body),) = peer.requests
    assert (method, target, orjson.loads(body)) == ("POST", BLOCKS, list(INDEX.names))


@pytest.mark.parametrize(
    ("peer", "error"),
    [
        (Peer(b"no_blocks", 404), PeerRefused),
        (Peer(b"more than was requested"), ExchangeLost),
    ],
)
def test_an_answer_that_is_not_the_requested_one_is_an_error_and_its_response_is_closed(
    peer: Peer, error: type[Exception]
) -> None:
    with pytest.raises(error):
        result(client_of(peer).blocks(PEER, INDEX.names, 10))
    assert not peer.open_responses


def test_an_answer_that_is_no_index_is_an_error() -> None:
    with pytest.raises(ValueError, match="not an index"):
        result(client_of(Peer(b"null")).index(PEER, STREAM))
