"""The page of a node in a real browser: what it shows, what it asks for, and what it never does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from local.page_stage import page_stage
from node_agent.contract.states import NodeState
from node_agent.core.access.caller import Scope
from node_agent.core.node.status import Liveness
from node_agent.core.openai.routes import PAGE_FILES, SNAPSHOT_EVENTS
from tests.browser.axe import violations
from tests.browser.chromium import Browser
from tests.unit.core.access.keys import document, entry, key_number

InBrowser = Callable[[Callable[[Browser], Any]], None]
KEY, WRONG = key_number(1).text.decode(), key_number(9).text.decode()
KEYS = document(entry(key_number(1), "alice", Scope.INFERENCE, Scope.FLEET)).to_bytes()
COUNT = "document.querySelectorAll('.node').length"


def test_it_shows_the_fleet_and_follows_it(in_browser: InBrowser) -> None:
    async def story(browser: Browser) -> None:
        async with page_stage(3) as fleet:
            tab = await browser.tab()
            await tab.open(fleet.url)
            await tab.until(f"{COUNT} === 3")
            assert await tab.text("#connection") == "Live"
            assert "3 of 3" in await tab.text("#summary")
            fleet.set_state(1, NodeState.DRAINING)
            fleet.set_liveness(2, Liveness.DEAD)
            await tab.until("document.querySelectorAll('#attention li').length === 2")
            attention = await tab.text("#attention")
            assert fleet.name(1) in attention
            assert "lost" in attention
            assert "1 of 2" in await tab.text("#summary")
            assert "is interrupted" in await tab.text("#timeline")
            assert "is lost" in await tab.text("#announcement"), "a screen reader says it"
            assert await violations(tab) == []
            assert tab.console == [], "no error, and nothing that the policy forbids"
            assert {urlsplit(url).path for url, _ in tab.requests} == {*PAGE_FILES, SNAPSHOT_EVENTS}
            assert {urlsplit(url).netloc for url, _ in tab.requests} == {urlsplit(fleet.url).netloc}

    in_browser(story)
