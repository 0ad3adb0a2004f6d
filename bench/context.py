"""Measures the next token's time after a hand-off by the source of its context, and what storing blocks costs.

    .venv/bin/python -m bench.context [--tokens 8192] [--rounds 5] [--overhead]

One real vLLM on this machine's CPU with the tiny model, whose context is made as long as is asked for. Each round asks
it for one token behind the same context, with its own prefix cache emptied: with an empty folder of blocks (recompute),
with the blocks brought from a peer door in this process, or from S3 on the embedded AWS, and with the blocks in its
folder already (nothing moves). The time is from the hand-off to the token, transfer and checks included.

Both ends, the door, the embedded AWS and the engine share this machine's cores, and loopback is no network: these
figures say what the software costs, not what a GPU or a 10 Gb/s network gives.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from statistics import median

import httpx

from bench.context_engine import ContextEngine, context_engine
from bench.context_overhead import measure_overhead
from local.aws import EmbeddedAws
from local.lone_node import lone_node, signer_for
from node_agent.adapters.block_store import S3BlockStore
from node_agent.adapters.http import HttpClient
from node_agent.adapters.http_limits import Limits
from node_agent.adapters.http_server import HttpServer, bind
from node_agent.contract.names import IN_S3
from node_agent.contract.states import NodeState
from node_agent.core.common.address import Address
from node_agent.core.common.cluster_keys import cluster_key
from node_agent.core.common.request_auth import (
    AUTH_HEADER,
    CLOCK_HEADER,
    Rejected,
    RequestVerifier,
    request_content,
)
from node_agent.core.kv.transfer_policy import SourceOffer, choose_source
from node_agent.core.kv.transfer_rates import ASSUMED_RATES, TransferRates
from node_agent.core.node.status import NodeStatus, Pool
from node_agent.kv.folder import BlockFolder
from node_agent.ports import ServerRequest
from node_agent.runtime.kv.block_client import BlockClient
from node_agent.runtime.kv.fetcher import ContextFetcher
from node_agent.runtime.kv.local_blocks import LocalBlocks
from node_agent.runtime.kv.server import BlockServer
from node_agent.runtime.kv.source_lookup import SourceLookup
from node_agent.runtime.node.context import NodeContext
from node_agent.runtime.peer_api.signed_answer import SignedRequestProxy
from node_agent.runtime.peer_api.signed_client import SignedClient

KEY, PEER, BUCKET = b"the bench's own cluster key", "i-peer", "synkti-bench-checkpoints"
MAX_BYTES = 4 * 1024**3
_ALWAYS = 1.0  # tokens/s: so slow a prefill that every transfer is worth it

Way = Callable[[], Awaitable[None]]


class SignedDoor:
    """A peer API that serves blocks only."""

    def __init__(self, folder: BlockFolder) -> None:
        self._kv = BlockServer(LocalBlocks(folder), time.monotonic)
        self._verifier = RequestVerifier(PEER, "r", lambda *_: cluster_key(KEY))

    async def __call__(self, request: ServerRequest) -> None:
        """Answer a request for blocks; 401 where its signature is not the cluster's."""
        stamp = request.headers.get(AUTH_HEADER.encode(), b"").decode("latin-1")
        headers = ((name.decode("latin-1"), value.decode("latin-1")) for name, value in request.headers.items())
        content = request_content(request.method, request.target, headers, request.body)
        result = self._verifier.verify(stamp, content, time.time())
        if isinstance(result, Rejected):
            more = [] if result.clock is None else [(CLOCK_HEADER, result.clock.encode())]
            request.respond(401, b"{}", more=more)
            return
        await self._kv.answer(SignedRequestProxy(request, result))


def _node(peer: Address) -> NodeContext:
    """Return a node that has the peer as a member."""
    pool = Pool("us-east-1b", "g5.xlarge")
    own = NodeStatus("i-here", "127.0.0.1:1", "127.0.0.1:2", NodeState.READY, pool, "tiny", 1)
    return lone_node(own, [NodeStatus(PEER, str(peer), "", NodeState.DRAINING, pool, "tiny", 1)], time.time)


def _clear_folder(folder: BlockFolder) -> None:
    """Delete all blocks in the engine's folder."""
    for path in folder.root.rglob("*.kv"):
        path.unlink()


async def measure(engine: ContextEngine, aws: EmbeddedAws, tokens: int, rounds: int, scratch: Path) -> None:
    """Measure every way to get the context, in each of `rounds`; print a table, and the choice that follows from it.

    Args:
        engine: computes the token; its blocks of this context are copied to the peer and to S3 first.
        aws: the embedded AWS, where the bucket of the checkpoints is created.
        tokens: the length of the context.
        rounds: how often each way is measured.
        scratch: an empty folder, for the peer's blocks.

    Raises AssertionError where a way does not fetch all blocks, or the engine then generates another token.
    """
    stream = secrets.token_hex(12)
    context = random.Random(1).choices(range(16, 256), k=tokens)  # noqa: S311 # the same context every time
    first = engine.generate_one(context, stream)
    await asyncio.to_thread(engine.wait_for_writer)
    theirs = BlockFolder(scratch / "peer", MAX_BYTES)
    shutil.copytree(engine.folder.root, theirs.root)
    listener = bind("127.0.0.1", 0, "bench")
    peer = Address("127.0.0.1", listener.getsockname()[1])
    server = HttpServer(SignedDoor(theirs), Limits())
    await server.start(listener)
    s3 = aws.client("s3")
    s3.create_bucket(Bucket=BUCKET)
    store, client = S3BlockStore(s3, BUCKET), HttpClient()
    index = await LocalBlocks(theirs).index(stream)
    assert index is not None
    await store.keep(stream, index, theirs.read)
    node, rates = _node(peer), TransferRates()
    rates.prefill_tokens_per_s = _ALWAYS
    lookup = SourceLookup(node, BlockClient(SignedClient(client, signer_for(PEER, KEY), time.time)), store)
    contexts = ContextFetcher(node, lookup, LocalBlocks(engine.folder), rates, time.monotonic)

    async def bring(source: str) -> None:
        brought = await contexts.fetch(stream, source)
        assert brought is not None
        assert brought.blocks == len(index.names), brought

    async def nothing() -> None:
        return

    ways: dict[str, Way] = {
        "recompute": nothing,
        "from a peer": lambda: bring(PEER),
        "from S3": lambda: bring(IN_S3),
        "in the folder already": nothing,
    }
    durations: dict[str, list[float]] = {name: [] for name in ways}
    transfer_times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            if name != "in the folder already":
                _clear_folder(engine.folder)
            engine.reset_prefix_cache()
            began = time.monotonic()
            await way()
            transfer_times[name].append(time.monotonic() - began)
            token = await asyncio.to_thread(engine.generate_one, context, stream)
            durations[name].append(time.monotonic() - began)
            assert token == first, f"{name}: another token than without a hand-off"
            await asyncio.to_thread(engine.wait_for_writer)
    await server.close(1.0)
    await client.close()
    _print_results(tokens, index.size, durations, transfer_times)
    rate = tokens / median(durations["recompute"])
    now = time.monotonic()
    offers = tuple(SourceOffer(way, tokens, index.size, rates.rate(way, now)) for way in ASSUMED_RATES)
    print(f"\nwith these figures the choice is: {choose_source(tokens, rate, offers).reason}")


def _print_results(
    tokens: int, size: int, durations: dict[str, list[float]], transfer_times: dict[str, list[float]]
) -> None:
    print(f"\ncontext of {tokens} tokens, {size / 1024**2:.1f} MiB of blocks; seconds, median (least-most)\n")
    print("| the context comes | until the next token | of that, until it is here |\n|---|---|---|")
    for name, values in durations.items():
        here = median(transfer_times[name])
        print(f"| {name} | {median(values):.2f} ({min(values):.2f}-{max(values):.2f}) | {here:.2f} |")


def main() -> int:
    """Measure, or with --overhead what storing blocks costs; return 1 where the engine does not answer, else 0."""
    parser = argparse.ArgumentParser(prog="python -m bench.context")
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--overhead", action="store_true", help="what keeping blocks costs while nothing fails")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        if given.overhead:
            print(measure_overhead(scratch, given.rounds))
            return 0
        aws = EmbeddedAws(scratch / "aws", scratch)
        try:
            aws.wait()
            with context_engine(scratch / "engine", given.tokens + 256) as engine:
                asyncio.run(measure(engine, aws, given.tokens, given.rounds, scratch))
        except httpx.HTTPError as error:
            print(f"the engine does not answer: {error!r}", file=sys.stderr)
            return 1
        finally:
            aws.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
