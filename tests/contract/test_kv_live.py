"""Two live nodes that store blocks: agents as separate processes, a real vLLM each, EC2 and S3 embedded.

A notice interrupts the first node while it generates. The second continues with the blocks that it fetched, one of
which was damaged for one stream. Then SIGKILL ends the second under a stream whose client is connected to the first
one's replacement, so that the blocks are lost. The clients receive the uninterrupted answer each time.

The expected answers are requested with another `cache_salt`: their blocks have other names, so that no node has any of
the blocks that are to move.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from local.aws import EmbeddedAws
from local.aws_fault_proxy import AwsFaultProxy
from local.chaos.fleet import ChaosFleet
from local.emulated_instance import EmulatedInstance, InstanceTemplate, free_network
from local.engines import MODEL, VLLM, prepare_engine
from local.process_cleanup import CleanupProcess
from node_agent.contract.names import ENGINE_PORT, EVENT_IDS_HEADER, SESSION_HEADER
from node_agent.core.kv.blocks import HEADER_BYTES
from node_agent.core.openai.sse import SseParser
from node_agent.kv.folder import BlockFolder
from node_agent.runtime.kv.local_blocks import LocalBlocks
from tests.scenarios.local_fleet import eventually

pytestmark = [pytest.mark.vllm, pytest.mark.e2e, pytest.mark.long, pytest.mark.timeout(600)]

BLOCK = 128
PROMPT, ANSWER = 1_800, 1_200
TOKENS_BEFORE_LOSS = 150
"""Tokens that a client has received when its node is interrupted."""

NOTICE_S = 6.5  # 5 s of it are reserved, so that the rest of an answer does not fit
READY_WITHIN_S, SOON_S, ANSWER_WITHIN_S = 240.0, 60.0, 120.0
DAMAGED = 9
"""The number of the block that is damaged."""

STATES: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0},
    "seeded": {"temperature": 1.1, "seed": 7},  # continued by resume: the request itself, started after its ids
    "damaged": {"temperature": 0},
}


@dataclass
class StreamClient:
    """A client of one stream, and what it has received."""

    url: str
    body: dict[str, Any]
    session: str
    stream: str = ""
    node: str = ""
    ids: list[int] = field(default_factory=list)
    text: str = ""
    ends: list[str] = field(default_factory=list)
    done: bool = False
    comments: bytes = b""

    async def read(self) -> StreamClient:
        headers = {SESSION_HEADER.decode(): self.session, EVENT_IDS_HEADER: "true"}
        async with (
            httpx.AsyncClient(timeout=ANSWER_WITHIN_S) as http,
            http.stream("POST", f"{self.url}/v1/completions", json=self.body, headers=headers) as response,
        ):
            assert response.status_code == 200, await response.aread()
            self.stream, self.node = response.headers["x-synkti-stream"][:24], response.headers["x-synkti-node"]
            parser = SseParser()
            async for data in response.aiter_bytes():
                self.comments += b"".join(line for line in data.splitlines(True) if line.startswith(b": synkti"))
                for _, event in parser.feed(data):
                    self._add_event(event)
        return self

    def _add_event(self, event: bytes) -> None:
        if event == b"[DONE]":
            self.done = True
            return
        chunk = json.loads(event)
        assert "error" not in chunk, chunk
        for choice in chunk["choices"]:
            self.text += choice["text"]
            self.ids += choice.get("token_ids") or ()
            self.ends += [choice["finish_reason"]] if choice["finish_reason"] else []


def request_body(seed: int, state: str, salt: str, tokens: int = ANSWER) -> dict[str, Any]:
    prompt = random.Random(seed).choices(range(10, 390), k=PROMPT)
    body = {"model": MODEL, "prompt": prompt, "max_tokens": tokens, "ignore_eos": True, "stream": True}
    return {**body, **STATES[state], "return_token_ids": True, "cache_salt": salt}


@contextlib.asynccontextmanager
async def two_nodes(folder: Path) -> AsyncIterator[ChaosFleet]:
    """Run two nodes that serve for the block. A node that ends is replaced."""
    engine = await asyncio.to_thread(prepare_engine, VLLM, print, 1)
    cleanup, aws = CleanupProcess(folder / "run"), EmbeddedAws(folder / "run", folder)
    gate = AwsFaultProxy(aws.endpoint)  # no AWS call fails here: the nodes reach it directly
    machines: list[EmulatedInstance] = []
    tending: asyncio.Task[None] | None = None
    try:
        await asyncio.to_thread(aws.wait)
        environ = {**aws.environ(), **engine.environ, "TMPDIR": str(cleanup.scratch), "SYNKTI_TABLE": ""}
        environ["SYNKTI_ALLOWED_FIELDS"] = "cache_salt"
        kind = InstanceTemplate(
            "kvlive", MODEL, engine.model_dir, engine.command, environ, folder / "run" / "nodes", folder
        )
        fleet = ChaosFleet(aws, gate, kind, free_network(), 2)
        machines = fleet.instances
        tending = asyncio.create_task(fleet.run())
        await fleet.wait_for("both nodes serve", lambda: len(fleet.stable) == 2 or tending.done(), READY_WITHIN_S)
        yield fleet
    finally:
        if tending is not None:
            tending.cancel()
            await asyncio.wait({tending})
        for machine in machines:
            await asyncio.to_thread(machine.close)
        await asyncio.to_thread(aws.stop)
        await gate.close()
        assert cleanup.finish(), "a process would not end"


async def wait_until_routed(machine: EmulatedInstance, other: EmulatedInstance) -> None:
    """Wait until a node routes to the other one, prefill measured at both."""

    def lists_it(status: int, text: str) -> bool:
        return status == 200 and any(node["instance_id"] == other.instance_id for node in json.loads(text)["nodes"])

    await wait_for_response(f"{machine.url}/v1/synkti/nodes", lists_it)
    for one in (machine, other):
        await wait_for_response(f"{one.admin_url}/metrics", lambda _, text: metric(text, "synkti_prefill") > 0)


async def wait_for_response(url: str, right: Callable[[int, str], bool]) -> None:
    async with httpx.AsyncClient(timeout=5) as http:

        async def is_right() -> bool:
            with contextlib.suppress(httpx.HTTPError):
                answer = await http.get(url)
                return right(answer.status_code, answer.text)
            return False

        await eventually(f"the expected response of {url}", is_right, SOON_S)


def metric(text: str, name: str) -> float:
    return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(name))


async def metric_of(machine: EmulatedInstance, name: str, port: int | None = None) -> float:
    """Return a metric of a node, or of its engine if `port` is given."""
    url = machine.admin_url if port is None else f"http://{machine.host}:{port}"
    async with httpx.AsyncClient(timeout=30) as http:
        return metric((await http.get(f"{url}/metrics")).text, name)


loaded = partial(metric_of, name="vllm:external_prefix_cache_hits_total{", port=ENGINE_PORT)


async def session_to(entry: EmulatedInstance, engine: EmulatedInstance) -> str:
    """Return a session id that this entry routes to that engine's node."""
    for number in range(64):
        session = f"s{number}"
        short = {"model": MODEL, "prompt": "a", "max_tokens": 1, "stream": True}
        if (await StreamClient(entry.url, short, session).read()).node == engine.instance_id:
            return session
    raise AssertionError("no session id is routed there")


async def wait_for(what: str, check: Callable[[], bool]) -> None:
    async def is_so() -> bool:
        return check()

    await eventually(what, is_so, SOON_S)


def assert_equal(client: StreamClient, right: StreamClient) -> None:
    assert client.ids == right.ids
    assert client.text == right.text
    assert client.ends == right.ends == ["length"]
    assert client.done


def damage(machine: EmulatedInstance, names: tuple[str, ...]) -> None:
    path = BlockFolder(machine.folder / "kv", 1024**3).path(names[DAMAGED])
    data = bytearray(path.read_bytes())
    data[HEADER_BYTES] ^= 1
    path.write_bytes(data)


async def blocks_of(machine: EmulatedInstance, stream: str) -> tuple[str, ...]:
    index = await LocalBlocks(BlockFolder(machine.folder / "kv", 1024**3)).index(stream)
    return () if index is None else index.names


def fetch_log(machine: EmulatedInstance, stream: str) -> str:
    """Return the node's log lines about where a stream's context came from."""
    return "\n".join(re.findall(rf"stream {stream}: its context: .*", machine.log.read_text()))


async def check_notice(first: EmulatedInstance, second: EmulatedInstance) -> None:
    """Interrupt the first node: all streams continue with their contexts, except for the damaged block."""
    bodies = [request_body(seed, state, f"live{seed}") for seed, state in enumerate(STATES)]
    right = [
        await StreamClient(second.url, {**body, "cache_salt": f"calm{n}"}, "s").read() for n, body in enumerate(bodies)
    ]
    session = await session_to(second, first)
    clients = [StreamClient(second.url, body, session) for body in bodies]
    before = await loaded(second)
    reading = [asyncio.create_task(one.read()) for one in clients]
    await wait_for("some of each answer came", lambda: all(len(one.ids) >= TOKENS_BEFORE_LOSS for one in clients))
    assert {one.node for one in clients} == {first.instance_id}
    with_damage = clients[-1]
    names = await blocks_of(first, with_damage.stream)
    assert len(names) >= PROMPT // BLOCK
    damage(first, names)
    first.give_notice(NOTICE_S)
    await asyncio.gather(*reading)
    for client, known in zip(clients, right, strict=True):
        assert_equal(client, known)
        assert b"synkti continued on" in client.comments
    for client in clients:
        assert re.search(r"context: peer: \d+ tokens, [0-9.]+ s, against", fetch_log(second, client.stream)), second.log
    assert "a block that came is not kept: damaged" in second.log.read_text()
    assert f"; {DAMAGED} blocks came in" in fetch_log(second, with_damage.stream)
    minimum = 2 * (PROMPT // BLOCK) * BLOCK + DAMAGED * BLOCK
    got = await loaded(second) - before
    print(f"loaded {got:.0f} tokens", *(fetch_log(second, one.stream) for one in clients), sep="\n")
    assert minimum <= got < 3 * (PROMPT + ANSWER)
    assert await metric_of(second, 'synkti_contexts_total{source="peer"}') == 3


async def check_kill(first: EmulatedInstance, second: EmulatedInstance) -> None:
    """Kill the first node with all its blocks: the context is computed again."""
    body = request_body(40, "greedy", "live40")
    right = await StreamClient(second.url, {**body, "cache_salt": "calm40"}, "s").read()
    client = StreamClient(second.url, body, await session_to(second, first))
    before = await loaded(second)
    reading = asyncio.create_task(client.read())
    await wait_for("some of the answer came", lambda: len(client.ids) >= TOKENS_BEFORE_LOSS)
    assert client.node == first.instance_id
    assert await blocks_of(first, client.stream), "there was something to lose"
    await asyncio.to_thread(first.kill)
    await reading
    assert_equal(client, right)
    assert f"continued on {second.instance_id}".encode() in client.comments
    assert await loaded(second) == before


def test_contexts_move_after_a_notice_and_are_recomputed_after_a_kill(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with two_nodes(tmp_path) as fleet:
            first, second = fleet.instances
            await wait_until_routed(second, first)
            await check_notice(first, second)
            await wait_for("the node that drained has ended", lambda: not first.running)
            assert first.agent.wait() == 0
            await fleet.wait_for(
                "its replacement serves",
                lambda: len(fleet.stable) == 2 and first not in fleet.instances,
                READY_WITHIN_S,
            )
            (third,) = [machine for machine in fleet.instances if machine is not second]
            await wait_until_routed(third, second)
            await check_kill(second, third)

    asyncio.run(scenario())
