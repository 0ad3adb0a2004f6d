"""Contexts that move between nodes. The fake engine stores no blocks: each scenario writes them where vLLM would."""

from __future__ import annotations

import asyncio
import secrets
import time
from pathlib import Path
from typing import Any

import pytest
import uvloop

from local.lone_node import signer_for
from node_agent.adapters.http import HttpClient
from node_agent.core.common.address import Address
from node_agent.core.kv import transfer_policy
from node_agent.core.kv.blocks import block_name, chain, chain_root, pack_header
from node_agent.kv.folder import BlockFolder
from node_agent.ports import Http
from node_agent.runtime.kv import block_client, source_lookup
from node_agent.runtime.kv.local_blocks import LocalBlocks
from node_agent.runtime.kv.prefill_probe import PrefillProbe
from node_agent.runtime.peer_api.signed_client import SignedClient
from node_agent.testing.fakes import MemoryBlockStore, MemoryCheckpoints
from tests.scenarios.local_fleet import LocalFleet, LocalNode, eventually, local_fleet
from tests.scenarios.streams import CHAT, expected, run_scenario
from tests.scenarios.test_resume import Reader, metric

MADE, OTHERS = bytes(16), bytes([1] * 16)
BLOCK_TOKENS, BLOCKS = 16, 40
SIZE = 200_000
LEAD_S = 60.0
SLOW, FAST = 10.0, 1e9  # an engine's prefill, tokens/s
ON: dict[str, Any] = {"SYNKTI_KV_MAX_BYTES": str(1024**3), "seconds_per_token": 0.02}

ENDLESS: dict[str, Any] = {"max_tokens": None, "ignore_eos": False}  # until the model itself has ended


def check_whole(reader: Reader) -> None:
    right = expected("chat", {**CHAT, "max_tokens": 4000, "ignore_eos": False})
    assert reader.text == {0: right.text}
    assert reader.finish_reasons == [right.finish_reason] == ["stop"]
    assert reader.done


@pytest.fixture
def slow_prefill(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every context worth a transfer, also if a busy machine makes it ten times slower."""
    monkeypatch.setattr(transfer_policy, "MAX_TRANSFER_S", 60.0)
    for name in ("_INDEX_WITHIN_S", "_S3_INDEX_WITHIN_S"):
        monkeypatch.setattr(source_lookup, name, 30.0)
    for name in ("_INDEX_SILENCE_S", "_BATCH_SILENCE_S"):
        monkeypatch.setattr(block_client, name, 30.0)

    async def measured(_: PrefillProbe) -> float:
        return SLOW

    monkeypatch.setattr(PrefillProbe, "tokens_per_s", measured)


def folder_of(node: LocalNode, made: bytes = MADE) -> BlockFolder:
    folder = BlockFolder(node.state_dir / "kv", 1024**3)
    if folder.read_layout() is None:
        folder.write_layout({"fingerprint": made.hex(), "block_tokens": BLOCK_TOKENS, "shards": 1})
    return folder


def write_context(node: LocalNode, stream: str, blocks: int = BLOCKS) -> list[str]:
    """Write the blocks of a stream's context as this node's engine would, and return their names."""
    keys = chain(chain_root(MADE, stream), range(blocks * BLOCK_TOKENS), BLOCK_TOKENS)
    folder, parent = folder_of(node), chain_root(MADE, stream)
    for place, key in enumerate(keys):
        payload = secrets.token_bytes(SIZE)
        assert folder.write(block_name(key), pack_header(MADE, key, parent, place, payload), payload)
        parent = key
    folder.append_last_blocks({f"chatcmpl-{stream}-1f": keys[-1]})
    return list(map(block_name, keys))


def held(node: LocalNode, names: list[str]) -> int:
    return sum(map(folder_of(node).contains, names))


async def reading(fleet: LocalFleet, reader: Reader, **fields: Any) -> tuple[asyncio.Task[Any], LocalNode]:
    """Start a client on an answer of unknown length, which a drain hands off, and wait until it has read 20 events.

    Returns the client's task, and the node whose engine generates the answer.
    """
    task = asyncio.create_task(reader.request(fleet.nodes[0], "chat", **ENDLESS, **fields))

    async def some() -> bool:
        return reader.events >= 20

    await eventually("20 events arrived", some)
    (engine,) = [node for node in fleet.nodes if await metric(fleet, node, "synkti_engine_requests ")]
    return task, engine


async def context_sources(fleet: LocalFleet) -> dict[str, float]:
    names = {source: f'synkti_contexts_total{{source="{source}"}}' for source in ("peer", "s3", "recompute")}
    found = dict.fromkeys(names, 0.0)
    for node in fleet.nodes:
        if node.life is not None and not node.life.done():
            for source, name in names.items():
                found[source] += await metric(fleet, node, name)
    return found


def test_a_draining_nodes_context_moves_to_the_node_that_continues_its_stream(
    tmp_path: Path, slow_prefill: None
) -> None:
    async def scenario(fleet: LocalFleet) -> None:
        for node in fleet.nodes:
            folder_of(node)
        reader = Reader(fleet)
        task, draining = await reading(fleet, reader)
        others = fleet.others(draining)
        names = write_context(draining, reader.stream)
        draining.notice(60)
        await task
        check_whole(reader)
        assert sorted(held(node, names) for node in others) == [0, BLOCKS]
        assert await context_sources(fleet) == {"peer": 1, "s3": 0, "recompute": 0}

    run_scenario(tmp_path, scenario, **ON)


def test_damaged_blocks_and_those_of_another_engine_are_rejected_and_the_stream_continues(
    tmp_path: Path, slow_prefill: None
) -> None:
    async def scenario(fleet: LocalFleet) -> None:
        reader = Reader(fleet)
        task, draining = await reading(fleet, reader)
        others = fleet.others(draining)
        folder_of(others[0])
        folder_of(others[1], OTHERS)
        names = write_context(draining, reader.stream)
        path = folder_of(draining).path(names[0])
        path.write_bytes(path.read_bytes()[:-1] + b"\0")
        draining.notice(60)
        await task
        check_whole(reader)
        assert held(others[1], names) == 0
        assert not folder_of(others[0]).contains(names[0])

    run_scenario(tmp_path, scenario, **ON)


def test_a_hanging_context_transfer_costs_no_more_than_a_prefill_and_the_drain_still_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens_per_s = 512.0

    async def measured(_: PrefillProbe) -> float:
        return tokens_per_s

    monkeypatch.setattr(PrefillProbe, "tokens_per_s", measured)

    async def stuck(*_: object) -> bytes:
        await asyncio.Event().wait()
        raise AssertionError("the event is never set")

    async def scenario(fleet: LocalFleet) -> None:
        for node in fleet.nodes:
            folder_of(node)
        reader = Reader(fleet)
        task, draining = await reading(fleet, reader)
        others = fleet.others(draining)
        names = write_context(draining, reader.stream)
        monkeypatch.setattr(LocalBlocks, "read", stuck)
        draining.notice(LEAD_S)
        async with asyncio.timeout(30):
            await task
        check_whole(reader)
        assert [held(node, names) for node in others] == [0, 0]
        pauses = [await metric(fleet, node, "synkti_continuation_pause_seconds_sum") for node in others]
        computing_s = BLOCKS * BLOCK_TOKENS / tokens_per_s
        assert computing_s < max(pauses) < LEAD_S / 2, "not the drain's deadline"
        assert draining.life is not None
        async with asyncio.timeout(30):
            assert await draining.life == 0

    run_scenario(tmp_path, scenario, **ON)


def test_a_context_is_recomputed_where_that_is_faster_than_a_transfer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def measured(_: PrefillProbe) -> float:
        return FAST

    monkeypatch.setattr(PrefillProbe, "tokens_per_s", measured)

    async def scenario(fleet: LocalFleet) -> None:
        for node in fleet.nodes:
            folder_of(node)
        reader = Reader(fleet)
        task, draining = await reading(fleet, reader)
        others = fleet.others(draining)
        names = write_context(draining, reader.stream)
        draining.notice(60)
        await task
        check_whole(reader)
        assert [held(node, names) for node in others] == [0, 0]
        assert await context_sources(fleet) == {"peer": 0, "s3": 0, "recompute": 1}
        assert not fleet.blocks.objects, "no upload to S3 either"

    run_scenario(tmp_path, scenario, **ON)


def test_the_context_of_a_stream_with_durability_none_is_not_uploaded_to_s3(tmp_path: Path, slow_prefill: None) -> None:
    async def scenario(fleet: LocalFleet) -> None:
        for node in fleet.nodes:
            folder_of(node)
        reader = Reader(fleet)
        task, draining = await reading(fleet, reader, headers={"x-synkti-durability": "none"})
        write_context(draining, reader.stream)
        draining.notice(60)
        await task
        check_whole(reader)
        assert not fleet.blocks.objects

    run_scenario(tmp_path, scenario, **ON)


def test_a_context_survives_the_stop_of_its_whole_fleet(tmp_path: Path, slow_prefill: None) -> None:
    checkpoints, blocks = MemoryCheckpoints(), MemoryBlockStore()
    options = {**ON, "checkpoints": checkpoints, "blocks": blocks, "SYNKTI_TERM_GRACE_S": "6"}

    async def run() -> None:
        async with local_fleet(tmp_path / "first", **options) as fleet:
            reader = Reader(fleet)
            task, engine = await reading(fleet, reader)
            names = write_context(engine, reader.stream)
            for node in fleet.nodes:
                node.agent.request_drain()
            await task
        assert len(blocks.objects) == 2, "the blocks and their index"
        async with local_fleet(tmp_path / "second", 1, **options) as fleet:
            folder_of(fleet.nodes[0])
            reader.fleet = fleet
            assert await reader.resume(fleet.nodes[0]) == 200
            check_whole(reader)
            assert held(fleet.nodes[0], names) == BLOCKS
            assert await context_sources(fleet) == {"peer": 0, "s3": 1, "recompute": 0}

    uvloop.run(run())


def test_the_peer_api_serves_blocks_to_peers_only_and_no_other_files(tmp_path: Path) -> None:
    async def scenario(fleet: LocalFleet) -> None:
        node, peer = fleet.nodes
        names = write_context(node, "ab" * 12, 3)
        address = Address(node.host, 8001)

        async def request(
            method: str, target: str, body: bytes = b"", client: Http = peer.agent.parts.membership.signed
        ) -> tuple[int, bytes]:
            response = await client.open(address, method, target, headers={}, body=body, read_timeout_s=5)
            answer = await response.read_all(1_000_000)
            response.close()
            return response.status, answer

        index_of = "/peer/v1/kv/of/" + "ab" * 12
        unsigned = HttpClient()
        stranger = SignedClient(unsigned, signer_for(node.instance_id, b"another key"), time.time)
        for client in (unsigned, stranger):
            assert (await request("GET", index_of, client=client))[0] == 401
        await unsigned.close()
        status, index = await request("GET", index_of)
        assert status == 200
        assert all(name.encode() in index for name in names)
        wanted = b'["%s","%s"]' % (names[0].encode(), names[1].encode())
        status, found = await request("POST", "/peer/v1/kv/blocks", wanted)
        assert status == 200
        folder = folder_of(node)
        assert found == folder.path(names[0]).read_bytes() + folder.path(names[1]).read_bytes()
        assert await request("POST", "/peer/v1/kv/blocks", b'["%s"]' % (b"0" * 64 + b".kv")) == (200, b"")
        assert (await request("POST", "/peer/v1/kv/blocks", b'["../engine.group"]'))[0] == 400
        assert (await request("POST", "/peer/v1/kv/blocks", b'["layout.json"]'))[0] == 400
        for target in ("/peer/v1/kv/of/" + "cd" * 12, "/peer/v1/kv/of/..%2Fx", "/peer/v1/kv/else"):
            assert (await request("GET", target))[0] == 404

    run_scenario(tmp_path, scenario, size=2, **ON)


def test_a_node_without_stored_blocks_answers_no_blocks(tmp_path: Path) -> None:
    async def scenario(fleet: LocalFleet) -> None:
        node, peer = fleet.nodes
        target, client = "/peer/v1/kv/of/" + "ab" * 12, peer.agent.parts.membership.signed
        response = await client.open(Address(node.host, 8001), "GET", target, headers={}, read_timeout_s=5)
        assert response.status == 404
        assert b'"no_blocks"' in await response.read_all(10_000)
        response.close()
        assert node.agent.parts.kv.rates.prefill_tokens_per_s is None

    run_scenario(tmp_path, scenario, size=2)
