"""The page of a node in a real browser: what it shows, what it requests, and what it never does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

from local.chromium import Browser, Tab
from local.lone_node import add_peer
from local.page_stage import page_stage, status_of
from node_agent.contract.states import NodeState
from node_agent.core.access.caller import Scope
from node_agent.core.node.status import Liveness
from node_agent.core.openai.routes import PAGE_FILES, SNAPSHOT_EVENTS
from tests.browser.axe import violations
from tests.unit.core.access.keys import document, entry, key_number

InBrowser = Callable[[Callable[[Browser], Any]], None]
KEY, WRONG, WATCHER = (key_number(number).text.decode() for number in (1, 9, 2))
KEYS = document(
    entry(key_number(1), "alice", Scope.INFERENCE, Scope.FLEET), entry(key_number(2), "prometheus", Scope.METRICS)
).to_bytes()
COUNT = "document.querySelectorAll('.node').length"
DENSE = 40
"""Nodes: more than the map shows with their names."""

ROWS = "#fleet-table tbody tr"
IS_WIDE = "document.documentElement.scrollWidth > window.innerWidth"


def test_it_shows_the_fleet_and_follows_it(in_browser: InBrowser) -> None:
    async def story(browser: Browser) -> None:
        async with page_stage(3) as fleet:
            tab = await browser.tab()
            await tab.open(fleet.url)
            await tab.until(f"{COUNT} === 3")
            assert await tab.text("#connection") == "Live"
            assert "3 of 3" in await tab.text("#summary")
            fleet.set_state(1, NodeState.DRAINING, int(fleet.node.wall_clock()) + 90)
            fleet.set_liveness(2, Liveness.DEAD)
            await tab.until("document.querySelectorAll('#attention li').length === 2")
            attention = await tab.text("#attention")
            assert fleet.name(1) in attention
            assert "ends in 1:" in attention
            assert "lost" in attention
            assert "1 of 2" in await tab.text("#summary")
            assert "is interrupted" in await tab.text("#timeline")
            assert "is lost" in await tab.text("#announcement"), "a screen reader says it"
            assert await violations(tab) == []
            assert tab.console == [], "no error, and nothing that the policy forbids"
            assert {urlsplit(url).path for url, _ in tab.requests} == {*PAGE_FILES, SNAPSHOT_EVENTS}
            assert {urlsplit(url).netloc for url, _ in tab.requests} == {urlsplit(fleet.url).netloc}

    in_browser(story)


def test_three_hundred_nodes_fit_a_desktop_and_a_phone(in_browser: InBrowser) -> None:
    async def story(browser: Browser) -> None:
        async with page_stage(300) as fleet:
            tab = await browser.tab()
            await tab.open(fleet.url)
            await tab.until(f"{COUNT} === 300")
            for number in range(20, 40):
                fleet.set_state(number, NodeState.AT_RISK)
            await tab.until("document.querySelector('#attention').innerText.includes('20 nodes')")
            await tab.resize(360, 740, is_phone=True)
            assert not await tab.evaluate(IS_WIDE), "nobody scrolls sideways on a phone"
            await tab.click("#show-table")
            await tab.until(f"document.querySelectorAll('{ROWS}').length === 300")
            assert not await tab.evaluate(IS_WIDE), "the table scrolls in its own box"
            assert "At risk" in await tab.text(ROWS)
            await tab.evaluate(f"window.kept = document.querySelector('{ROWS}:last-child'); undefined")
            fleet.set_state(299, NodeState.DRAINING)
            await tab.until(f"document.querySelector('{ROWS}').innerText.includes('Draining')")
            assert await tab.evaluate("window.kept.isConnected"), "rows are kept, not made anew"
            assert tab.console == []

    in_browser(story)


def test_the_dense_map_and_the_table_have_no_violations_in_light_and_dark(in_browser: InBrowser) -> None:
    async def story(browser: Browser) -> None:
        async with page_stage(DENSE) as fleet:
            tab = await browser.tab()
            await tab.open(fleet.url)
            await tab.until(f"{COUNT} === {DENSE}")
            for number, state in enumerate(NodeState, 1):
                fleet.set_state(number, state)
            for number, liveness in ((8, Liveness.DEAD), (9, Liveness.SUSPECT)):
                fleet.set_liveness(number, liveness)
            await tab.until("document.querySelectorAll('#attention li').length >= 5")
            for scheme in ("light", "dark"):
                await tab.set_media(prefers_color_scheme=scheme)
                await tab.click("#show-map")
                assert await violations(tab) == []
                await tab.click("#show-table")
                assert await violations(tab) == []

    in_browser(story)


def test_a_key_is_entered_with_the_keyboard_and_stays_in_the_tab(in_browser: InBrowser) -> None:
    async def story(browser: Browser) -> None:
        async with page_stage(3, KEYS) as fleet:
            tab = await browser.tab()
            await tab.open(fleet.url)
            await tab.until("!document.querySelector('#access').hidden")
            assert await tab.text("#access-error") == "", "a first visit is no error"
            assert await tab.evaluate("document.activeElement.id") == "key"
            assert await violations(tab) == []
            await enter(tab, WRONG)
            await tab.until("document.querySelector('#access-error').textContent.includes('not known')")
            assert await tab.evaluate("sessionStorage.length") == 0
            assert await tab.evaluate(COUNT) == 0
            await enter(tab, KEY)
            await tab.until(f"{COUNT} === 3")
            await tab.open(fleet.url)
            await tab.until(f"{COUNT} === 3")
            urls = [url for url, _ in tab.requests]
            assert not any(KEY in url or WRONG in url for url in urls)
            sent = [headers for url, headers in tab.requests if url.endswith(SNAPSHOT_EVENTS)]
            assert {headers.get("authorization") for headers in sent} == {None, f"Bearer {WRONG}", f"Bearer {KEY}"}
            assert not any("authorization" in headers for url, headers in tab.requests if not url.endswith("/events"))
            await tab.click("#forget-key")
            await tab.until("!document.querySelector('#access').hidden")
            assert await tab.evaluate("sessionStorage.length") == 0
            other = await browser.tab()
            await other.open(fleet.url)
            await other.until("!document.querySelector('#access').hidden")

    in_browser(story)


async def enter(tab: Tab, text: str) -> None:
    await tab.evaluate("document.querySelector('#key').focus()")
    await tab.send("Input.insertText", text=text)
    await tab.press("Enter")


def test_a_key_without_the_scope_is_refused_with_the_nodes_own_words(in_browser: InBrowser) -> None:
    async def story(browser: Browser) -> None:
        async with page_stage(3, KEYS) as fleet:
            tab = await browser.tab()
            await tab.open(fleet.url)
            await tab.until("!document.querySelector('#access').hidden")
            await enter(tab, WATCHER)
            await tab.until("document.querySelector('#banner-text').textContent.includes('fleet')")
            assert await tab.text("#connection") == "Refused"
            assert not await tab.evaluate("document.querySelector('#forget-key').hidden"), "another key can be entered"

    in_browser(story)


def test_a_node_that_is_gone_leaves_its_last_snapshot_and_the_way_to_others(in_browser: InBrowser) -> None:
    async def story(browser: Browser) -> None:
        async with page_stage(3) as fleet:
            tab = await browser.tab()
            await tab.open(fleet.url)
            await tab.until(f"{COUNT} === 3")
            fleet.stop()
            await tab.until("document.querySelector('#connection').textContent === 'No answer'")
            links = await tab.evaluate("[...document.querySelectorAll('#banner-links a')].map((link) => link.href)")
            assert links == [f"http://{status_of(number).client_address}/ui" for number in (1, 2)]
            assert await tab.evaluate(COUNT) == 3
            assert await violations(tab) == []

    in_browser(story)


def test_texts_of_other_nodes_are_shown_as_texts(in_browser: InBrowser) -> None:
    hostile = '<img src=x onerror="document.title=1">'

    async def story(browser: Browser) -> None:
        async with page_stage(2) as fleet:
            evil = replace(status_of(2), model=hostile, client_address="javascript:alert(1)", instance_id="i-<b>x</b>")
            add_peer(fleet.node, evil)
            tab = await browser.tab()
            await tab.open(fleet.url)
            await tab.until(f"{COUNT} === 3")
            assert hostile in await tab.text("#fleet-map")
            assert hostile in await tab.evaluate("[...document.querySelector('#model').options].map((o) => o.text)")
            assert await tab.evaluate("document.querySelectorAll('#content img, #content b').length") == 0
            fleet.stop()
            await tab.until("document.querySelectorAll('#banner-links a').length === 2")
            links = await tab.evaluate("[...document.querySelectorAll('#banner-links a')].map((link) => link.href)")
            assert not any("javascript" in link for link in links)
            assert [entry for entry in tab.console if "network" not in entry] == []

    in_browser(story)


def test_everything_can_be_reached_with_the_keyboard_in_the_order_of_the_page(in_browser: InBrowser) -> None:
    async def story(browser: Browser) -> None:
        async with page_stage(3) as fleet:
            tab = await browser.tab()
            await tab.open(fleet.url)
            await tab.until(f"{COUNT} === 3")
            focused = []
            for _ in range(12):
                await tab.press("Tab")
                focused.append(await tab.evaluate("document.activeElement.id || document.activeElement.className"))
            expected = ["skip", "show-map", "show-table", "prompt", "model", "max-tokens", "temperature", "send"]
            assert [name for name in focused if name in expected][: len(expected)] == expected
            await tab.evaluate("document.querySelector('#show-table').focus()")
            await tab.press("Enter")
            await tab.until("!document.querySelector('#fleet-table').hidden")
            pressed = "document.querySelector('#show-table').getAttribute('aria-pressed')"
            assert await tab.evaluate(pressed) == "true"

    in_browser(story)


def test_it_is_painted_before_its_data_arrives(in_browser: InBrowser) -> None:
    """How fast is measured by bench.page; here only that the first paint waits for no snapshot."""

    async def story(browser: Browser) -> None:
        async with page_stage(3, KEYS) as fleet:
            tab = await browser.tab()
            await tab.open(fleet.url)
            paints = await tab.until("performance.getEntriesByType('paint').map((entry) => entry.name)")
            assert "first-contentful-paint" in paints

    in_browser(story)
