"""The playground, in a real browser against a fleet of real agents: a hand-off in the answer, and a lost connection."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from local.chromium import Browser, Tab
from node_agent.adapters.http_server import bind
from tests.browser.axe import violations
from tests.scenarios.local_fleet import LocalFleet, LocalNode, local_fleet
from tests.scenarios.streams import CHAT, expected

InBrowser = Callable[[Callable[[Browser], Any]], None]
PROMPT, TOKENS = "Tell me about a night train.", 160
ANSWER = expected(
    "chat", {**CHAT, "messages": [{"role": "user", "content": PROMPT}], "max_tokens": TOKENS, "ignore_eos": False}
)
TEXT = "[...document.querySelectorAll('#answer .part')].map((part) => part.textContent).join('')"
STATUS = "document.querySelector('#chat-status').textContent"
CHECKS = "[...document.querySelectorAll('#checks li')].map((each) => each.dataset.kind)"


async def open_playground(browser: Browser, url: str) -> Tab:
    tab = await browser.tab()
    await tab.open(url + "/ui")
    await tab.until("document.querySelector('#model').options.length === 1")
    await tab.fill("#prompt", PROMPT)
    await tab.fill("#max-tokens", str(TOKENS))
    await tab.click("#send")
    await tab.until(f"{TEXT}.length > 40")
    return tab


async def engine_of(tab: Tab, fleet: LocalFleet) -> LocalNode:
    return fleet.by_id(await tab.text("#route strong"))


def test_a_hand_off_is_marked_in_the_text_and_nothing_is_lost(in_browser: InBrowser, tmp_path: Path) -> None:
    async def story(browser: Browser) -> None:
        async with local_fleet(tmp_path / "fleet", seconds_per_token=0.03) as fleet:
            tab = await open_playground(browser, fleet.nodes[0].url)
            (await engine_of(tab, fleet)).kill_engine()
            await tab.until(f"{STATUS}.startsWith('Complete')")
            assert await tab.evaluate(TEXT) == ANSWER.text
            assert await tab.evaluate("document.querySelectorAll('#answer .seam').length") == 1
            engines = await tab.evaluate("[...document.querySelectorAll('#route strong')].map((e) => e.textContent)")
            assert len(set(engines)) == 2
            assert f"{TOKENS} tokens, across 1 hand-off" in await tab.text("#chat-status")
            assert await tab.evaluate(CHECKS) == ["good"] * 3
            await tab.click("#compare")
            await tab.until(f"{CHECKS}.length === 4")
            assert await tab.evaluate(CHECKS) == ["good"] * 4
            await tab.until("document.querySelector('#timeline').innerText.includes('1 stream of')")
            assert await violations(tab) == []
            assert tab.console == []

    in_browser(story)


@contextlib.asynccontextmanager
async def balancer(node: LocalNode) -> AsyncIterator[tuple[str, list[LocalNode]]]:
    """Yield the URL of a TCP proxy, and the list whose first node receives its new connections."""
    targets = [node]
    writers: set[asyncio.StreamWriter] = set()
    tasks: set[asyncio.Task[None]] = set()

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.transport.abort()

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.add(writer)
        try:
            to_reader, to_writer = await asyncio.open_connection(targets[0].host, 8000)
        except OSError:
            writer.transport.abort()
            return
        writers.add(to_writer)
        tasks.update(asyncio.create_task(copy(*pair)) for pair in ((reader, to_writer), (to_reader, writer)))

    listener = bind("127.0.0.1", 0, "balancer")
    server = await asyncio.start_server(forward, sock=listener)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", targets
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()


def test_behind_a_balancer_it_resumes_at_another_node_when_its_own_is_lost(
    in_browser: InBrowser, tmp_path: Path
) -> None:
    async def story(browser: Browser) -> None:
        async with (
            local_fleet(tmp_path / "fleet", seconds_per_token=0.03) as fleet,
            balancer(fleet.nodes[0]) as (url, targets),
        ):
            tab = await open_playground(browser, url)
            targets[0] = fleet.nodes[1]
            await fleet.nodes[0].crash()
            await tab.until(f"{STATUS}.startsWith('Complete')")
            assert await tab.evaluate(TEXT) == ANSWER.text
            assert await tab.evaluate(CHECKS) == ["good"] * 3
            await tab.until("document.querySelector('#connection').textContent === 'Live'")
            assert fleet.nodes[1].instance_id in await tab.text("#foot"), "the page follows"

    in_browser(story)


def test_an_error_and_a_stop_are_said_in_words(in_browser: InBrowser, tmp_path: Path) -> None:
    async def story(browser: Browser) -> None:
        async with local_fleet(tmp_path / "fleet", size=1, seconds_per_token=0.03) as fleet:
            tab = await open_playground(browser, fleet.nodes[0].url)
            await tab.click("#stop")
            await tab.until(f"{STATUS} === 'Stopped.'")
            assert "bad" in await tab.evaluate(CHECKS), "the answer is not complete"
            await tab.evaluate("document.querySelector('#model').options[0].value = 'nothing'")
            await tab.click("#send")
            await tab.until(f"{STATUS}.includes('nothing')")
            assert not await tab.evaluate("document.querySelector('#send').disabled")

    in_browser(story)
