"""Two live nodes that keep blocks: agents in processes of their own, a real vLLM each, EC2 and S3 embedded.

A notice takes the first one while it generates: the other goes on with the blocks that it fetched, one of which was
damaged for one of the streams. Then SIGKILL takes that other one, from under a stream whose client is connected to the
first one's replacement: the blocks are gone with it. What the clients read is the uninterrupted answer each time.

Uninterrupted answers are asked for with another `cache_salt`: their blocks have other names, so that nobody has any of
what is to move.
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

pytestmark = [pytest.mark.vllm, pytest.mark.e2e, pytest.mark.timeout(600)]

BLOCK = 128
PROMPT, ANSWER = 1_800, 1_200
SAID = 150
"""Tokens that a client has when its node is struck."""

NOTICE_S = 6.5  # 5 s are kept free: what is left of an answer does not fit
READY_WITHIN_S, SOON_S, ANSWER_WITHIN_S = 240.0, 60.0, 120.0
DAMAGED = 9
"""The number of the block that is damaged."""

STATES: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0},
    "seeded": {"temperature": 1.1, "seed": 7},  # goes on by resume: the request itself, begun behind its ids
    "damaged": {"temperature": 0},
}


@dataclass
class Listener:
    """A stream as its client reads it."""

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

    async def read(self) -> Listener:
        headers = {SESSION_HEADER.decode(): self.session, EVENT_IDS_HEADER: "true"}
        async with (
            httpx.AsyncClient(timeout=ANSWER_WITHIN_S) as http,
            http.stream("POST", f"{self.url}/v1/completions", json=self.body, headers=headers) as response,
        ):
            assert response.status_code == 200, await response.aread()
            self.stream, self.node = response.headers["x-synkti-stream"], response.headers["x-synkti-node"]
            parser = SseParser()
            async for data in response.aiter_bytes():
                self.comments += b"".join(line for line in data.splitlines(True) if line.startswith(b": synkti"))
                for _, event in parser.feed(data):
                    self._take(event)
        return self

    def _take(self, event: bytes) -> None:
        if event == b"[DONE]":
            self.done = True
            return
        chunk = json.loads(event)
        assert "error" not in chunk, chunk
        for choice in chunk["choices"]:
            self.text += choice["text"]
            self.ids += choice.get("token_ids") or ()
            self.ends += [choice["finish_reason"]] if choice["finish_reason"] else []


def question(seed: int, state: str, salt: str, tokens: int = ANSWER) -> dict[str, Any]:
    prompt = random.Random(seed).choices(range(10, 390), k=PROMPT)
    asked = {"model": MODEL, "prompt": prompt, "max_tokens": tokens, "ignore_eos": True, "stream": True}
    return {**asked, **STATES[state], "return_token_ids": True, "cache_salt": salt}


@contextlib.asynccontextmanager
async def two_nodes(folder: Path) -> AsyncIterator[ChaosFleet]:
    """Until the block ends; both serve when it begins. Who goes is replaced."""
    engine = await asyncio.to_thread(prepare_engine, VLLM, print, 1)
    cleanup, aws = CleanupProcess(folder / "run"), EmbeddedAws(folder / "run", folder)
    gate = AwsFaultProxy(aws.endpoint)  # nothing of AWS fails here: the nodes reach it directly
    machines: list[EmulatedInstance] = []
    tending: asyncio.Task[None] | None = None
    try:
        await asyncio.to_thread(aws.wait)
        environ = {**aws.environ(), **engine.environ, "TMPDIR": str(cleanup.scratch), "SYNKTI_TABLE": ""}
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


async def sees(machine: EmulatedInstance, other: EmulatedInstance) -> None:
    """Wait until a node routes to the other one, prefill measured at both."""

    def met(status: int, text: str) -> bool:
        return status == 200 and any(node["instance_id"] == other.instance_id for node in json.loads(text)["nodes"])

    await asked_until(f"{machine.url}/v1/synkti/nodes", met)
    for one in (machine, other):
        await asked_until(f"{one.url}/metrics", lambda _, text: figure(text, "synkti_prefill") > 0)


async def asked_until(url: str, right: Callable[[int, str], bool]) -> None:
    async with httpx.AsyncClient(timeout=5) as http:

        async def is_right() -> bool:
            with contextlib.suppress(httpx.HTTPError):
                answer = await http.get(url)
                return right(answer.status_code, answer.text)
            return False

        await eventually(f"the right answer of {url}", is_right, SOON_S)


def figure(text: str, name: str) -> float:
    return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(name))


async def figure_of(machine: EmulatedInstance, name: str, port: int | None = None) -> float:
    """A node's metric, or its engine's."""
    url = machine.url if port is None else f"http://{machine.host}:{port}"
    async with httpx.AsyncClient(timeout=30) as http:
        return figure((await http.get(f"{url}/metrics")).text, name)


loaded = partial(figure_of, name="vllm:external_prefix_cache_hits_total{", port=ENGINE_PORT)


async def session_to(entry: EmulatedInstance, engine: EmulatedInstance) -> str:
    """A session whose owner, for this entry, is that engine's node."""
    for number in range(64):
        session = f"s{number}"
        short = {"model": MODEL, "prompt": "a", "max_tokens": 1, "stream": True}
        if (await Listener(entry.url, short, session).read()).node == engine.instance_id:
            return session
    raise AssertionError("no session leads there")


async def until(what: str, check: Callable[[], bool]) -> None:
    async def is_so() -> bool:
        return check()

    await eventually(what, is_so, SOON_S)


def whole(heard: Listener, right: Listener) -> None:
    assert heard.ids == right.ids
    assert heard.text == right.text
    assert heard.ends == right.ends == ["length"]
    assert heard.done


def damage(machine: EmulatedInstance, names: tuple[str, ...]) -> None:
    path = BlockFolder(machine.folder / "kv", 1024**3).path(names[DAMAGED])
    data = bytearray(path.read_bytes())
    data[HEADER_BYTES] ^= 1
    path.write_bytes(data)


async def blocks_of(machine: EmulatedInstance, stream: str) -> tuple[str, ...]:
    index = await LocalBlocks(BlockFolder(machine.folder / "kv", 1024**3)).index(stream)
    return () if index is None else index.names


def told_of(machine: EmulatedInstance, stream: str) -> str:
    """Why the node brought a context, or did not."""
    return "\n".join(re.findall(rf"stream {stream}: its context: .*", machine.log.read_text()))


async def a_notice(first: EmulatedInstance, second: EmulatedInstance) -> None:
    """All streams move with their contexts, but for what is damaged."""
    bodies = [question(seed, state, f"live{seed}") for seed, state in enumerate(STATES)]
    right = [
        await Listener(second.url, {**body, "cache_salt": f"calm{n}"}, "s").read() for n, body in enumerate(bodies)
    ]
    session = await session_to(second, first)
    listeners = [Listener(second.url, body, session) for body in bodies]
    before = await loaded(second)
    reading = [asyncio.create_task(one.read()) for one in listeners]
    await until("some of each answer came", lambda: all(len(one.ids) >= SAID for one in listeners))
    assert {one.node for one in listeners} == {first.instance_id}
    spoilt = listeners[-1]
    names = await blocks_of(first, spoilt.stream)
    assert len(names) >= PROMPT // BLOCK
    damage(first, names)
    first.give_notice(NOTICE_S)
    await asyncio.gather(*reading)
    for heard, known in zip(listeners, right, strict=True):
        whole(heard, known)
        assert b"synkti continued on" in heard.comments
    for heard in listeners:
        assert re.search(r"context: peer: \d+ tokens, [0-9.]+ s, against", told_of(second, heard.stream)), second.log
    assert "a block that came is not kept: damaged" in second.log.read_text()
    assert f"; {DAMAGED} blocks came in" in told_of(second, spoilt.stream)
    least = 2 * (PROMPT // BLOCK) * BLOCK + DAMAGED * BLOCK
    got = await loaded(second) - before
    print(f"loaded {got:.0f} tokens", *(told_of(second, one.stream) for one in listeners), sep="\n")
    assert least <= got < 3 * (PROMPT + ANSWER)
    assert await figure_of(second, 'synkti_contexts_total{way="peer"}') == 3


async def a_kill(first: EmulatedInstance, second: EmulatedInstance) -> None:
    """The first is gone with all its blocks: they are computed again."""
    body = question(40, "greedy", "live40")
    right = await Listener(second.url, {**body, "cache_salt": "calm40"}, "s").read()
    heard = Listener(second.url, body, await session_to(second, first))
    before = await loaded(second)
    reading = asyncio.create_task(heard.read())
    await until("some of the answer came", lambda: len(heard.ids) >= SAID)
    assert heard.node == first.instance_id
    assert await blocks_of(first, heard.stream), "there was something to lose"
    await asyncio.to_thread(first.kill)
    await reading
    whole(heard, right)
    assert f"continued on {second.instance_id}".encode() in heard.comments
    assert await loaded(second) == before


def test_contexts_move_between_live_nodes_and_are_computed_where_they_cannot(tmp_path: Path) -> None:
    async def story() -> None:
        async with two_nodes(tmp_path) as fleet:
            first, second = fleet.instances
            await sees(second, first)
            await a_notice(first, second)
            await until("the node that drained has ended", lambda: not first.running)
            assert first.agent.wait() == 0
            await fleet.wait_for(
                "its replacement serves",
                lambda: len(fleet.stable) == 2 and first not in fleet.instances,
                READY_WITHIN_S,
            )
            (third,) = [machine for machine in fleet.instances if machine is not second]
            await sees(third, second)
            await a_kill(second, third)

    asyncio.run(story())
