"""Find a source of a stream's context: a peer that has blocks of it, or else S3."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Sequence
from contextlib import suppress

from node_agent.contract.errors import StoreUnavailable, TransientError
from node_agent.contract.states import NodeState
from node_agent.core.kv.index import Batch, Index
from node_agent.core.kv.transfer_policy import ContextSource
from node_agent.core.membership import Member
from node_agent.core.node.status import Liveness, NodeStatus
from node_agent.ports import BlockStore
from node_agent.runtime.kv.block_client import BlockClient
from node_agent.runtime.kv.block_transfer import BlockSource
from node_agent.runtime.node.context import NodeContext

MAX_PEERS = 3
"""Peers queried for a stream's blocks, concurrently."""

_INDEX_WITHIN_S = 0.5
"""For a peer's index, a connection included: an unreachable peer would cost a connection's timeout."""

_S3_INDEX_WITHIN_S = 1.0
_log = logging.getLogger(__name__)


class SourceLookup:
    """Looks up sources.

    peers: requests blocks from peers.
    store: None where there is no bucket.
    """

    def __init__(self, node: NodeContext, peers: BlockClient, store: BlockStore | None) -> None:
        self._node = node
        self._peers = peers
        self._store = store

    async def find(self, fingerprint: bytes, stream: str, last_node: str) -> BlockSource | None:
        """Return a source whose blocks an engine with this fingerprint can use; None where there is none.

        last_node: the instance id of the node whose engine had the stream last, or IN_S3.
        """
        found = await self._find_at_peers(fingerprint, stream, last_node)
        return found or await self._find_in_s3(fingerprint, stream, last_node)

    async def _find_at_peers(self, fingerprint: bytes, stream: str, last_node: str) -> BlockSource | None:
        """Query the candidate peers concurrently; return the one with the most bytes, or None."""
        candidates = candidate_peers(self._node.members.view.alive, last_node)
        found = await asyncio.gather(*(self._find_at_peer(fingerprint, stream, address) for address in candidates))
        sources = [source for source in found if source is not None]
        return max(sources, key=lambda source: source.index.size, default=None)

    async def _find_at_peer(self, fingerprint: bytes, stream: str, address: str) -> BlockSource | None:
        def fetch(batch: Batch) -> Awaitable[bytes]:
            return self._peers.blocks(address, batch.names, batch.end - batch.start)

        with suppress(TransientError, ValueError, TimeoutError):
            async with asyncio.timeout(_INDEX_WITHIN_S):
                index = await self._peers.index(address, stream)
            return BlockSource(ContextSource.PEER, index, fetch) if index.fingerprint == fingerprint else None
        return None

    async def _find_in_s3(self, fingerprint: bytes, stream: str, last_node: str) -> BlockSource | None:
        store = self._store
        if store is None or not may_be_in_s3(self._node.member(last_node)):
            return None
        index = await _index_in_s3(store, fingerprint, stream)
        if index is None or index.fingerprint != fingerprint:
            return None
        return BlockSource(ContextSource.S3, index, lambda batch: store.fetch(index, batch))


async def _index_in_s3(store: BlockStore, fingerprint: bytes, stream: str) -> Index | None:
    try:
        async with asyncio.timeout(_S3_INDEX_WITHIN_S):
            return await store.index(fingerprint, stream)
    except (StoreUnavailable, TimeoutError) as error:
        _log.info("stream %s: cannot read whether S3 has its context: %r", stream, error)
        return None


def candidate_peers(alive: Sequence[NodeStatus], last_node: str) -> list[str]:
    """Return the addresses of the node that was lost last, and of some that drain.

    The node that was lost last may never have had the context, and a client that returns from a draining entry does not
    know whose engine it was.

    Args:
        alive: the peers that are alive: a silent one would cost the client a pause.
        last_node: the instance id of the node whose engine had the stream last.
    """
    present = [status for status in alive if status.state is not NodeState.GONE]
    named = [status.peer_address for status in present if status.instance_id == last_node]
    draining = [s.peer_address for s in present if s.state is NodeState.DRAINING and s.instance_id != last_node]
    return [*named, *draining][:MAX_PEERS]


def may_be_in_s3(last_node: Member | None) -> bool:
    """Return whether S3 may have a context.

    Only a node that drained uploads; after any other loss the request would cost a pause.

    last_node: the node whose engine had the stream last, None where it is not known any more.
    """
    if last_node is None or last_node.liveness is Liveness.LEFT:
        return True
    return last_node.status.state in (NodeState.DRAINING, NodeState.GONE)
