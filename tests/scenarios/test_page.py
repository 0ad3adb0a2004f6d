"""The page of a node, in a fleet of real agents: its files, its snapshots, its keys, and its end."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from node_agent.core.openai.routes import PAGE_FILES, SNAPSHOT, SNAPSHOT_EVENTS
from node_agent.core.snapshot.viewers import MAX_VIEWERS
from tests.scenarios.local_fleet import LocalFleet, LocalNode, eventually, local_fleet
from tests.scenarios.streams import CHAT, open_stream, read_until, run_scenario
from tests.scenarios.test_client_keys import ALICE, BOB, KEYS, bearer, keyed_fleet
from tests.unit.core.access.keys import document


async def snapshot(fleet: LocalFleet, node: LocalNode) -> dict[str, Any]:
    response = await fleet.http.get(node.url + SNAPSHOT)
    assert response.status_code == 200
    value: dict[str, Any] = response.json()
    return value


@contextlib.asynccontextmanager
async def watching(
    fleet: LocalFleet, node: LocalNode, headers: dict[str, str] | None = None
) -> AsyncIterator[AsyncIterator[dict[str, Any]]]:
    """Yield the snapshots of one viewer."""

    async def read(response: httpx.Response) -> AsyncIterator[dict[str, Any]]:
        async for line in response.aiter_lines():
            if line.startswith("data: {"):
                yield json.loads(line[6:])

    async with fleet.http.stream("GET", node.url + SNAPSHOT_EVENTS, headers=headers or {}) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["cache-control"] == "no-store"
        yield read(response)


def test_every_node_serves_the_page_and_the_whole_fleet_in_it(tmp_path: Path) -> None:
    async def scenario(fleet: LocalFleet) -> None:
        for node in fleet.nodes:
            page = await fleet.http.get(node.url + "/ui/", follow_redirects=True)
            assert page.text.startswith("<!doctype html>")
            assert "default-src 'none'" in page.headers["content-security-policy"]
            for route in PAGE_FILES:
                file = await fleet.http.get(node.url + route)
                known = {"if-none-match": file.headers["etag"]}
                assert (await fleet.http.get(node.url + route, headers=known)).status_code == 304
            shown = await snapshot(fleet, node)
            assert shown["self"] == node.instance_id
            assert {row["id"] for row in shown["nodes"]} == {each.instance_id for each in fleet.nodes}
            assert {(row["state"], row["liveness"], row["model"]) for row in shown["nodes"]} == {
                ("ready", "alive", "m")
            }
            assert shown["cost"]["dollars_per_hour"] == 3 * 1.006
        assert (await fleet.http.post(node.url + "/ui")).status_code == 405
        assert (await fleet.http.get(node.url + "/ui/other.js")).status_code == 404

    run_scenario(tmp_path, scenario)


def test_an_interrupted_stream_is_in_the_timeline_and_in_the_counts(tmp_path: Path) -> None:
    async def scenario(fleet: LocalFleet) -> None:
        entry = fleet.nodes[0]
        body = {**CHAT, "max_tokens": 120}

        async with open_stream(fleet, entry, "chat", body) as reader:
            engine = fleet.by_id(reader.response.headers["x-synkti-node"])
            (row,) = (await snapshot(fleet, entry))["streams"]["oldest"]
            assert (row["engine"], row["model"]) == (engine.instance_id, "m")
            assert row["id"] in reader.response.headers["x-synkti-stream"]
            assert row["id"] != reader.response.headers["x-synkti-stream"], "nobody resumes it with what is shown"
            await read_until(reader, 20, engine.kill_engine)
        shown = await snapshot_after(fleet, entry, lambda shown: shown["continuity"]["streams"]["complete"] == 1)
        assert sum(shown["continuity"]["continued"].values()) == 1
        assert shown["continuity"]["pause_ms"]["count"] == 1
        assert shown["continuity"]["tokens"] == 120
        assert shown["streams"]["open"] == 0
        continued = next(each for each in shown["timeline"] if each["kind"] == "continued")
        assert continued["node"] == engine.instance_id
        assert continued["streams"] == 1
        assert continued["targets"] != [engine.instance_id]

    run_scenario(tmp_path, scenario)


async def snapshot_after(fleet: LocalFleet, node: LocalNode, check: Any) -> dict[str, Any]:
    async def holds() -> bool:
        return bool(check(await snapshot(fleet, node)))

    await eventually("the snapshot has it", holds)
    return await snapshot(fleet, node)


def test_a_viewer_sees_a_node_drain_with_the_time_that_it_has_and_then_leave(tmp_path: Path) -> None:
    async def scenario(fleet: LocalFleet) -> None:
        entry, other = fleet.nodes[0], fleet.nodes[1]
        async with watching(fleet, entry) as snapshots, watching(fleet, other) as own:
            assert (await anext(snapshots))["nodes"]
            async with open_stream(fleet, other, "chat", {**CHAT, "max_tokens": 4000}) as _:
                other.notice(12.0)
                async for shown in own:
                    (row,) = (row for row in shown["nodes"] if row["id"] == other.instance_id)
                    if row["state"] == "draining":
                        assert 0 < row["deadline"] - shown["at"] <= 13
                        break
                async for shown in snapshots:
                    (row,) = (row for row in shown["nodes"] if row["id"] == other.instance_id)
                    if row["state"] == "draining":
                        assert 0 < row["deadline"] - shown["at"] <= 13, "by gossip, at every node"
                        break
            async for shown in snapshots:
                if all(row["id"] != other.instance_id for row in shown["nodes"]):
                    break
            kinds = [each["kind"] for each in shown["timeline"] if each["node"] == other.instance_id]
            assert kinds[:2] == ["left", "draining"]
            assert [shown async for shown in own], "the node that stops sends a last snapshot and ends the response"

    run_scenario(tmp_path, scenario, seconds_per_token=0.03)


def test_snapshots_need_a_key_with_the_scope_and_the_page_none(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with keyed_fleet(tmp_path, size=1) as keyed:
            (node,) = keyed.nodes
            assert (await keyed.get(node, "/ui")).status_code == 200
            for path in (SNAPSHOT, SNAPSHOT_EVENTS):
                assert (await keyed.get(node, path)).status_code == 401
                assert (await keyed.get(node, path, bearer(BOB))).status_code == 403
                in_url = await keyed.get(node, f"{path}?key={ALICE.text.decode()}", bearer(ALICE))
                assert in_url.status_code == 400
            assert (await keyed.get(node, SNAPSHOT, bearer(ALICE))).status_code == 200

    asyncio.run(scenario())


def test_a_viewer_whose_key_is_revoked_receives_nothing_more(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with keyed_fleet(tmp_path, size=1) as keyed:
            (node,) = keyed.nodes
            async with asyncio.timeout(20):
                async with watching(keyed.fleet, node, bearer(ALICE)) as snapshots:
                    await anext(snapshots)
                    keyed.publish(document(replace(KEYS.keys[0], revoked=1.0), *KEYS.keys[1:]))
                    async for _ in snapshots:
                        pass

    asyncio.run(scenario())


def test_there_are_so_many_viewers_and_no_more_and_one_snapshot_for_all(tmp_path: Path) -> None:
    async def scenario(fleet: LocalFleet) -> None:
        (node,) = fleet.nodes
        viewers = node.agent.parts.clients.page.viewers
        async with contextlib.AsyncExitStack() as stack:
            streams = [await stack.enter_async_context(watching(fleet, node)) for _ in range(MAX_VIEWERS)]
            for _ in range(2):
                times = {(await anext(each))["at"] for each in streams}
            assert len(times) == 1, "made once"
            refused = await fleet.http.get(node.url + SNAPSHOT_EVENTS)
            assert (refused.status_code, refused.json()["error"]["code"]) == (429, "too_many_viewers")

        async def has_no_viewers() -> bool:
            return len(viewers) == 0

        await eventually("they have left", has_no_viewers)

    run_scenario(tmp_path, scenario, size=1)


def test_the_page_is_off_with_one_setting(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with local_fleet(tmp_path, size=1, SYNKTI_UI="off") as fleet:
            (node,) = fleet.nodes
            for path in (*PAGE_FILES, SNAPSHOT, SNAPSHOT_EVENTS):
                response = await fleet.http.get(node.url + path)
                assert (response.status_code, response.json()["error"]["code"]) == (404, "page_off")
            assert (await fleet.http.get(node.url + "/v1/synkti/nodes")).status_code == 200

    asyncio.run(scenario())


def test_without_keys_no_page_of_another_site_reads_the_fleet(tmp_path: Path) -> None:
    async def scenario(fleet: LocalFleet) -> None:
        (node,) = fleet.nodes
        get = partial(fleet.http.get, node.url + SNAPSHOT)
        for headers in (
            {"host": "rebound.example"},
            {"origin": "https://evil.example"},
            {"sec-fetch-site": "cross-site"},
        ):
            response = await get(headers=headers)
            assert (response.status_code, response.json()["error"]["code"]) == (403, "caller_not_allowed")
        assert (await get(headers={"sec-fetch-site": "same-origin"})).status_code == 200

    run_scenario(tmp_path, scenario, size=1)
