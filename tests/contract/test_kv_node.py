"""A node with a real vLLM that stores its blocks: it measures its prefill, and peers can fetch its contexts."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from local.engine_env import engine_command, engine_environ, ensure_engine
from local.lone_node import lone_node
from local.tiny_model import ensure_model
from node_agent.adapters.http import HttpClient
from node_agent.adapters.node_key import NodeKey
from node_agent.contract.states import NodeState
from node_agent.contract.tags import NodeTags
from node_agent.core.common.cluster_keys import ClusterKeys
from node_agent.core.kv.transfer_policy import ContextSource
from node_agent.core.kv.transfer_rates import TransferRates
from node_agent.core.node.peer_clocks import PeerClocks
from node_agent.core.node.peer_keyring import PeerKeyring
from node_agent.core.node.request_signer import PeerName, RequestSigner
from node_agent.core.node.status import NodeStatus, Pool
from node_agent.core.node.vouched_nodes import VouchedNodes
from node_agent.dependencies import Dependencies
from node_agent.kv.folder import BlockFolder
from node_agent.runtime.kv.block_client import BlockClient
from node_agent.runtime.kv.fetcher import ContextFetcher
from node_agent.runtime.kv.local_blocks import LocalBlocks
from node_agent.runtime.kv.source_lookup import SourceLookup
from node_agent.runtime.node.context import NodeContext
from node_agent.runtime.peer_api.signed_client import SignedClient
from tests.engines import VLLM_TIMEOUT_S
from tests.scenarios.local_fleet import MODEL, LocalFleet, LocalNode, eventually, unready_fleet

pytestmark = [pytest.mark.vllm, pytest.mark.long]

TOKENS, BLOCK = 300, 128
MAX_BYTES = 1024**3
SLOW = 1.0  # tokens/s: any context is worth fetching
NEIGHBOUR = "i-elsewhere"


def test_the_context_of_a_stream_at_a_real_vllm_can_be_fetched_by_a_peer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = ensure_engine(print)
    model_dir = ensure_model(environment, print)
    for name, value in {**engine_environ(), "VLLM_ENABLE_V1_MULTIPROCESSING": "01"}.items():
        monkeypatch.setenv(name, value)

    def command(host: str, port: int) -> list[str]:
        serve = engine_command(environment, model_dir, MODEL, host, port)
        return [*serve, "--distributed-executor-backend", "uni"]

    neighbours_key = NodeKey.generate()

    def with_neighbour(outside: Dependencies) -> Dependencies:
        """Have EC2 list another instance of the cluster, with its key: a stranger gets no blocks."""
        tags = NodeTags("synkti", NodeState.READY, "127.0.0.1:1", public_key=neighbours_key.public)
        outside.instances.tags[NEIGHBOUR] = tags.encode()  # type: ignore[attr-defined] # a fake in memory
        return outside

    async def run() -> None:
        options: dict[str, Any] = {
            "SYNKTI_KV_MAX_BYTES": str(MAX_BYTES),
            "SYNKTI_MIN_SILENCE_S": "10",
            "SYNKTI_MODEL_DIR": str(model_dir),
        }
        async with unready_fleet(tmp_path, 1, engine=command, through=with_neighbour, **options) as fleet:
            (node,) = fleet.nodes
            await eventually("vLLM is ready", partial(fleet.ready, node), VLLM_TIMEOUT_S)
            await _scenario(fleet, node, tmp_path / "elsewhere", neighbours_key)

    asyncio.run(run())


async def _scenario(fleet: LocalFleet, node: LocalNode, elsewhere: Path, neighbours_key: NodeKey) -> None:
    async def measured() -> bool:
        return node.agent.parts.kv.rates.prefill_tokens_per_s is not None

    await eventually("the node has measured its prefill", measured)
    theirs = BlockFolder(node.state_dir / "kv", MAX_BYTES)
    assert not list(theirs.root.rglob("*.kv")), "neither the warm-up nor the measurement is stored"
    body = {"model": MODEL, "prompt": "a night train", "temperature": 0, "max_tokens": TOKENS, "ignore_eos": True}
    url = f"{node.url}/v1/completions"
    async with fleet.http.stream("POST", url, json={**body, "stream": True}) as response:
        stream = response.headers["x-synkti-stream"][:24]
        assert (await response.aread()).endswith(b"data: [DONE]\n\n")

    here = BlockFolder(elsewhere, MAX_BYTES)
    layout = theirs.read_layout()
    assert layout is not None
    here.write_layout(layout)
    client = HttpClient()
    neighbour, rates = _neighbour(node), TransferRates()
    rates.prefill_tokens_per_s = SLOW
    signed = SignedClient(client, _signer(node, neighbours_key), time.time)
    lookup = SourceLookup(neighbour, BlockClient(signed), None)
    contexts = ContextFetcher(neighbour, lookup, LocalBlocks(here), rates, time.monotonic)

    async def fetched() -> bool:  # the engine may still be writing
        await contexts.fetch(stream, node.instance_id)
        return sum(1 for _ in here.root.rglob("*.kv")) >= TOKENS // BLOCK

    await eventually("the context is fetched", fetched)
    await client.close()
    for path in here.root.rglob("*.kv"):
        assert path.read_bytes() == theirs.path(path.name).read_bytes()
    last = await contexts.fetch(stream, node.instance_id)
    assert last is not None
    assert (last.choice.source, last.choice.reason) == (ContextSource.RECOMPUTE, "nothing is missing")


def _signer(node: LocalNode, own_key: NodeKey) -> RequestSigner:
    """Return the neighbour's signer: with the key that the two nodes share."""
    cluster = ClusterKeys(b"cluster key")
    keyring = PeerKeyring(cluster, VouchedNodes(), own_key.shared_secret)
    pair_key = keyring.pair_key(node.agent.parts.node.status().public_key, cluster.current)
    assert pair_key is not None
    return RequestSigner(NEIGHBOUR, lambda _: pair_key, lambda _: PeerName(node.instance_id, None), PeerClocks())


def _neighbour(node: LocalNode) -> NodeContext:
    """Return another node's context, in which this node is listed."""
    pool = Pool("us-east-1b", "g5.xlarge")
    own = NodeStatus(NEIGHBOUR, "127.0.0.1:1", "127.0.0.1:2", NodeState.READY, pool, MODEL, 1)
    listed = NodeStatus(node.instance_id, f"{node.host}:8001", "", NodeState.READY, pool, MODEL, 1)
    return lone_node(own, [listed], time.time)
