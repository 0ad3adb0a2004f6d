"""Request indexes and blocks from peers. The other side is `runtime/kv/server`."""

from __future__ import annotations

from collections.abc import Sequence

import orjson

from node_agent.contract.errors import PeerRefused
from node_agent.core.common.address import parse_address
from node_agent.core.kv.index import MAX_BLOCKS, Index, parse_index
from node_agent.ports import Http
from node_agent.runtime.kv.server import BLOCKS, INDEX_OF

_INDEX_SILENCE_S = 0.5
_BATCH_SILENCE_S = 2.0
_MAX_INDEX_BYTES = 128 * MAX_BLOCKS


class BlockClient:
    """Requests blocks through peer APIs. client: signs the requests."""

    def __init__(self, client: Http) -> None:
        self._client = client

    async def index(self, address: str, stream: str) -> Index:
        """Return the index of a peer's blocks of a stream.

        Raises ExchangeLost; PeerRefused, also where the peer has none; ValueError where its answer is no index.
        """
        target = INDEX_OF + stream
        return parse_index(await self._request(address, "GET", target, b"", _INDEX_SILENCE_S, _MAX_INDEX_BYTES))

    async def blocks(self, address: str, names: Sequence[str], size: int) -> bytes:
        """Return a peer's blocks, one behind the other, up to the first missing one.

        size: of all of them, in bytes. Raises ExchangeLost; PeerRefused for a response other than 200.
        """
        return await self._request(address, "POST", BLOCKS, orjson.dumps(names), _BATCH_SILENCE_S, size)

    async def _request(
        self, address: str, method: str, target: str, body: bytes, read_timeout_s: float, max_bytes: int
    ) -> bytes:
        headers = {"content-type": "application/json"}
        exchange = await self._client.open(
            parse_address(address), method, target, headers=headers, body=body, read_timeout_s=read_timeout_s
        )
        try:
            answer = await exchange.read_all(max_bytes)
            if exchange.status != 200:
                raise PeerRefused(f"the peer answered with status {exchange.status}")
            return answer
        finally:
            exchange.close()
