"""Stock clients against a fleet that loses nodes: the uninterrupted answer, or an explicit error.

Each program runs four times: without a loss, with the loss of its engine's node, with the loss of its entry behind a
gateway, and with the loss of its entry where no component resumes for it. Only the last may, and must, be an error.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from pathlib import Path

import pytest

from tests.clients_real import environments as clients
from tests.clients_real.programs import Outcome, Program
from tests.scenarios.clients import entry_of_the_stream, gateway, urls
from tests.scenarios.local_fleet import MODEL, LocalFleet, LocalNode, eventually
from tests.scenarios.streams import CHAT, TOKENS, expected, run_scenario

PROMPT = str(CHAT["messages"][0]["content"])  # type: ignore[index]
RIGHT = expected("chat", CHAT)
ARGUMENTS = (MODEL, PROMPT, str(TOKENS))
WITHIN_S = 150.0

PROGRAMS = [
    Program("openai-1.109", clients.OPENAI_1, "openai_chat.py"),
    Program("openai-2.40", clients.OPENAI_2, "openai_chat.py"),
    Program("openai-3.57", clients.OPENAI_3, "openai_async.py"),
    Program("openai-node", clients.OPENAI_NODE, "openai_chat.mjs"),
    Program("anthropic", clients.ANTHROPIC, "anthropic_messages.py"),
    Program("anthropic-node", clients.ANTHROPIC_NODE, "anthropic_messages.mjs"),
    Program("litellm", clients.LITELLM, "litellm_chat.py"),
    Program("langchain", clients.LANGCHAIN, "langchain_chat.py"),
    Program("llamaindex", clients.LLAMAINDEX, "llamaindex_chat.py"),
    Program("instructor", clients.INSTRUCTOR, "instructor_chat.py"),
    Program("pydantic-ai", clients.PYDANTIC_AI, "pydantic_ai_chat.py"),
    Program("openai-agents", clients.OPENAI_AGENTS, "openai_agents_chat.py"),
    Program("vercel-ai", clients.VERCEL_AI, "vercel_ai.mjs"),
    Program("httpx", clients.RAW, "raw_stream.py", ("httpx",)),
    Program("aiohttp", clients.RAW, "raw_stream.py", ("aiohttp",)),
    Program("curl", None, "curl.sh", command="curl"),
    Program("java", None, "java.sh", command="java"),
]
WITH_THE_PACKAGE = [
    Program(f"{name}-{how}", client, f"openai_{how}.py")
    for name, client in (("1.109", clients.OPENAI_1), ("2.40", clients.OPENAI_2), ("3.57", clients.OPENAI_3))
    for how in ("chat", "async")
]


async def engine_of_the_stream(fleet: LocalFleet) -> LocalNode:
    """Return the node whose engine generates the only stream, once its client has received a part of it."""
    entry = await entry_of_the_stream(fleet)
    stream = next(iter(entry.agent.parts.clients.streams))
    assert stream.engine_node is not None
    return fleet.by_id(stream.engine_node.instance_id)


async def wait_until_removed(fleet: LocalFleet, lost: LocalNode) -> None:
    fleet.nodes.remove(lost)

    async def agreed() -> bool:
        return all([await fleet.sees(node, len(fleet.nodes)) for node in fleet.nodes])

    await eventually("the remaining nodes list each other only", agreed, within_s=40.0)


async def ended(reading: Awaitable[Outcome]) -> Outcome:
    async with asyncio.timeout(WITHIN_S):
        return await reading


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: str(program.name))
def test_a_stock_client_gets_the_unbroken_answer_or_an_explicit_error(tmp_path: Path, program: Program) -> None:
    program.prepare()

    async def scenario(fleet: LocalFleet) -> None:
        whole = await ended(program.run(f"{fleet.nodes[0].url}/v1", *ARGUMENTS))
        assert whole.answer is not None, whole.error
        assert whole.answer[0] == RIGHT.text

        async with gateway(urls(fleet)) as base_url:
            assert await ended(program.run(base_url, *ARGUMENTS)) == whole, "behind a gateway, nothing lost"

        for entry in fleet.nodes:  # until the entry is not the engine's node
            reading = asyncio.create_task(program.run(f"{entry.url}/v1", *ARGUMENTS))
            engine = await engine_of_the_stream(fleet)
            if engine is not entry:
                break
            await reading
        await engine.crash()
        assert await ended(reading) == whole, "the engine's node was lost"
        await wait_until_removed(fleet, engine)

        async with gateway(urls(fleet)) as base_url:
            reading = asyncio.create_task(program.run(base_url, *ARGUMENTS))
            entry = await entry_of_the_stream(fleet)
            await entry.crash()
            assert await ended(reading) == whole, "the entry was lost behind a gateway"
        await wait_until_removed(fleet, entry)

        reading = asyncio.create_task(program.run(f"{fleet.nodes[0].url}/v1", *ARGUMENTS))
        await entry_of_the_stream(fleet)
        await fleet.nodes[0].crash()
        broken = await ended(reading)
        assert broken.answer is None, "a part of an answer was taken for the complete one"
        assert "no end after" not in broken.error

    run_scenario(tmp_path, scenario, size=4, engine_options=("--plugged",))  # without it no message is continued


@pytest.mark.parametrize("program", WITH_THE_PACKAGE, ids=lambda program: str(program.name))
def test_every_openai_sdk_with_synkti_client_survives_the_loss_of_its_entry(tmp_path: Path, program: Program) -> None:
    program.prepare()

    async def scenario(fleet: LocalFleet) -> None:
        reading = asyncio.create_task(program.run("http://synkti/v1", *ARGUMENTS, *urls(fleet)))
        await (await entry_of_the_stream(fleet)).crash()
        assert await ended(reading) == Outcome((RIGHT.text, RIGHT.finish_reason))

    run_scenario(tmp_path, scenario)


def test_an_event_source_resumes_by_itself_at_another_node(tmp_path: Path) -> None:
    program = Program("eventsource", clients.EVENTSOURCE, "eventsource.mjs")
    program.prepare()

    async def scenario(fleet: LocalFleet) -> None:
        entry, *others = fleet.nodes
        reading = asyncio.create_task(program.run(f"{entry.url}/v1", *ARGUMENTS, *[node.url for node in others]))
        await entry_of_the_stream(fleet)
        await entry.crash()
        assert await ended(reading) == Outcome((RIGHT.text, RIGHT.finish_reason))

    run_scenario(tmp_path, scenario)
