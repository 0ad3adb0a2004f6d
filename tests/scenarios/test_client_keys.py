"""Clients' keys in a fleet of real agents: who gets in, whose a stream is, and how a revocation spreads."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from node_agent.core.access.caller import Scope
from node_agent.core.access.client_key import ClientKey
from node_agent.core.access.key_document import KeyDocument
from node_agent.dependencies import Dependencies
from node_agent.testing.fake_keys import MemoryAuditLog, MemoryKeyStore
from tests.scenarios.local_fleet import LocalFleet, LocalNode, eventually, unready_fleet
from tests.unit.core.access.keys import document, entry, key_number

ALICE, BOB, WATCHER = key_number(1), key_number(2), key_number(3)
KEYS = document(
    entry(ALICE, "alice", Scope.INFERENCE, Scope.FLEET),
    entry(BOB, "bob", Scope.INFERENCE),
    entry(WATCHER, "watcher", Scope.METRICS, Scope.ADMIN),
)


def bearer(key: ClientKey) -> dict[str, str]:
    return {"authorization": f"Bearer {key.text.decode()}"}


class FastKeyStore(MemoryKeyStore):
    """A store that a node reads every tenth of a second; a node has one of its own, so that it can be cut off."""

    interval_s = 0.1


@dataclass
class KeyedFleet:
    """A fleet with keys. stores, audits: of the nodes, in their order."""

    fleet: LocalFleet
    stores: list[FastKeyStore]
    audits: list[MemoryAuditLog]

    @property
    def nodes(self) -> list[LocalNode]:
        return self.fleet.nodes

    def publish(self, keys: KeyDocument, *numbers: int) -> None:
        """Change the document as these nodes read it; by default as all do."""
        for number in numbers or range(len(self.stores)):
            self.stores[number].document = keys.to_bytes()

    async def get(self, node: LocalNode, path: str, headers: dict[str, str] | None = None) -> httpx.Response:
        return await self.fleet.http.get(node.url + path, headers=headers or {})

    async def accepts(self, node: LocalNode, key: ClientKey) -> bool:
        return (await self.get(node, "/v1/models", bearer(key))).status_code == 200

    async def refuses(self, node: LocalNode, key: ClientKey) -> bool:
        return (await self.get(node, "/v1/models", bearer(key))).status_code == 401


@contextlib.asynccontextmanager
async def keyed_fleet(folder: Path, size: int = 3, seconds_per_token: float = 0.02) -> AsyncIterator[KeyedFleet]:
    stores, audits = [], []

    def with_keys(outside: Dependencies) -> Dependencies:
        stores.append(FastKeyStore(KEYS.to_bytes()))
        audits.append(MemoryAuditLog())
        return replace(outside, client_keys=stores[-1], audit_log=audits[-1])

    async with unready_fleet(folder, size, seconds_per_token, through=with_keys) as fleet:
        keyed = KeyedFleet(fleet, stores, audits)
        for node in fleet.nodes:
            await eventually(f"{node.instance_id} is ready", partial(fleet.ready, node))
            await eventually(f"{node.instance_id} sees all", partial(_sees_all, keyed, node, size))
        yield keyed


async def _sees_all(keyed: KeyedFleet, node: LocalNode, size: int) -> bool:
    response = await keyed.get(node, "/v1/synkti/nodes", bearer(ALICE))
    return response.status_code == 200 and sum(bool(each["model"]) for each in response.json()["nodes"]) == size


MESSAGES = {"messages": [{"role": "user", "content": "night train"}], "max_tokens": 9}
PROMPT = {"model": "m", "prompt": "a night train", "temperature": 0, "ignore_eos": True}


@dataclass
class Stream:
    """What a client has received of one stream."""

    status: int = 0
    token: str = ""
    completion: str = ""
    last_id: str = ""
    text: str = ""
    error: dict[str, Any] | None = None
    is_done: bool = False

    async def read(self, response: httpx.Response, events: int | None = None) -> None:
        """Read a response, to its end or some events."""
        self.status = response.status_code
        if response.status_code != 200:
            self.error = orjson.loads(await response.aread())["error"]
            return
        self.token = response.headers["x-synkti-stream"]
        async for line in response.aiter_lines():
            name, _, value = line.partition(": ")
            if name == "id":
                self.last_id = value
            elif name == "data" and value == "[DONE]":
                self.is_done = True
            elif name == "data":
                chunk = orjson.loads(value)
                if "error" in chunk:
                    self.error = chunk["error"]
                    return
                self.completion = chunk["id"]
                self.text += "".join(choice["text"] for choice in chunk["choices"])
                if events is not None and (events := events - 1) <= 0:
                    return


async def begin(keyed: KeyedFleet, node: LocalNode, key: ClientKey, tokens: int, events: int) -> Stream:
    """Begin a stream, read some events, and disconnect."""
    stream = Stream()
    headers = {**bearer(key), "x-synkti-event-ids": "true"}
    body = {**PROMPT, "max_tokens": tokens, "stream": True}
    async with keyed.fleet.http.stream("POST", f"{node.url}/v1/completions", json=body, headers=headers) as response:
        await stream.read(response, events)
    return stream


async def resume(keyed: KeyedFleet, node: LocalNode, key: ClientKey, token: str, last_id: str = "") -> Stream:
    stream = Stream()
    headers = {**bearer(key), **({"last-event-id": last_id} if last_id else {})}
    async with keyed.fleet.http.stream("GET", f"{node.url}/v1/streams/{token}", headers=headers) as response:
        await stream.read(response)
    return stream


async def reference(keyed: KeyedFleet, tokens: int) -> str:
    response = await keyed.fleet.http.post(
        f"{keyed.nodes[0].url}/v1/completions", json={**PROMPT, "max_tokens": tokens}, headers=bearer(ALICE)
    )
    text: str = response.json()["choices"][0]["text"]
    return text


def test_each_route_wants_a_key_of_its_scope_and_health_wants_none(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with keyed_fleet(tmp_path, size=1) as keyed:
            (node,) = keyed.nodes
            for path in ("/health", "/healthz", "/readyz", "/ping", "/load"):
                assert (await keyed.get(node, path)).status_code == 200, path
            statuses = {
                path: [
                    (await keyed.get(node, path, headers)).status_code for headers in ({}, bearer(BOB), bearer(WATCHER))
                ]
                for path in ("/v1/models", "/version", "/metrics", "/v1/synkti/nodes", "/v1/synkti/drains")
            }
            assert statuses == {
                "/v1/models": [401, 200, 403],
                "/version": [401, 200, 403],
                "/metrics": [404, 404, 404],  # at the admin listener, as drains
                "/v1/synkti/nodes": [401, 403, 403],
                "/v1/synkti/drains": [404, 404, 404],
            }
            assert (await keyed.get(node, "/readyz")).json()["client_keys"] == "on"
            assert (await keyed.get(node, "/nowhere")).status_code == 404
            assert (await keyed.get(node, "/v1/streams/" + "0" * 24)).status_code == 401

    asyncio.run(scenario())


def test_errors_have_the_form_of_their_route_and_never_the_key(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with keyed_fleet(tmp_path, size=1) as keyed:
            (node,) = keyed.nodes
            unknown = {"x-api-key": key_number(9).text.decode()}
            chat, messages = [
                await keyed.fleet.http.post(node.url + path, json={}, headers=unknown)
                for path in ("/v1/chat/completions", "/v1/messages")
            ]
            assert chat.status_code == messages.status_code == 401
            assert chat.headers["www-authenticate"] == 'Bearer realm="synkti"'
            assert chat.json()["error"]["code"] == "invalid_api_key"
            assert messages.json()["type"] == "error"
            assert messages.json()["error"]["type"] == "authentication_error"
            assert unknown["x-api-key"][-64:] not in chat.text + messages.text
            in_url = await keyed.get(node, f"/v1/models?api_key={ALICE.text.decode()}", bearer(ALICE))
            assert (in_url.status_code, in_url.json()["error"]["code"]) == (400, "api_key_in_url")
            repeated = await keyed.fleet.http.get(
                f"{node.url}/v1/models", headers=[("x-api-key", ALICE.text.decode()), ("x-api-key", BOB.text.decode())]
            )
            assert repeated.json()["error"]["code"] == "repeated_api_key"

    asyncio.run(scenario())


def test_only_its_key_resumes_a_stream_at_any_node_and_only_with_the_token(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with keyed_fleet(tmp_path) as keyed:
            whole = await reference(keyed, 40)
            entry_node, *others = keyed.nodes
            begun = await begin(keyed, entry_node, ALICE, tokens=40, events=5)
            assert begun.token[:24] in begun.completion
            assert begun.token not in begun.completion, "the completion's id is no token"
            for node in keyed.nodes:
                for key, token, last in (
                    (BOB, begun.token, begun.last_id),
                    (BOB, begun.token, ""),
                    (ALICE, begun.token[:24], ""),
                    (ALICE, begun.completion.removeprefix("cmpl-"), ""),
                    (ALICE, begun.token[:24] + "0" * 32, ""),
                ):
                    foreign = await resume(keyed, node, key, token, last)
                    unknown = await resume(keyed, node, key, "f" * 24)
                    assert foreign.status == unknown.status == 404
                    assert foreign.error
                    assert unknown.error
                    assert foreign.error["code"] == unknown.error["code"] == "stream_not_found"
                assert (await keyed.get(node, f"/v1/streams/{begun.token}")).status_code == 401
            rest = await resume(keyed, others[0], ALICE, begun.token, begun.last_id)
            assert rest.is_done
            assert begun.text + rest.text == whole
            assert rest.token == begun.token
            assert rest.last_id.startswith(begun.token + "/")

    asyncio.run(scenario())


def test_a_stranger_cannot_stop_a_stream_that_its_client_is_reading(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with keyed_fleet(tmp_path, seconds_per_token=0.03) as keyed:
            whole, own = await reference(keyed, 60), Stream()
            headers, body = (
                {**bearer(ALICE), "x-synkti-event-ids": "true"},
                {**PROMPT, "max_tokens": 60, "stream": True},
            )
            url = f"{keyed.nodes[0].url}/v1/completions"
            async with keyed.fleet.http.stream("POST", url, json=body, headers=headers) as response:
                reading = asyncio.create_task(own.read(response))
                await eventually("it has begun", lambda: _has_begun(own))
                for node in keyed.nodes:
                    for token in (own.token, own.token[:24]):
                        assert (await resume(keyed, node, BOB, token)).status == 404
                await reading
            assert own.error is None
            assert own.is_done
            assert own.text == whole

    asyncio.run(scenario())


async def _has_begun(stream: Stream) -> bool:
    return bool(stream.last_id)


def test_a_stream_survives_the_death_of_its_entry_under_its_key(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with keyed_fleet(tmp_path) as keyed:
            whole = await reference(keyed, 40)
            entry_node, *others = keyed.nodes
            begun = await begin(keyed, entry_node, ALICE, tokens=40, events=5)
            await entry_node.crash()
            statuses = {(await resume(keyed, node, BOB, begun.token, begun.last_id)).status for node in others}
            assert statuses <= {404, 503}, "503 while the dead node has not answered: it may have the stream"
            rest = await resume(keyed, others[1], ALICE, begun.token, begun.last_id)
            assert begun.text + rest.text == whole

    asyncio.run(scenario())


def test_a_revoked_key_is_refused_everywhere_and_under_a_partition_when_it_heals(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with keyed_fleet(tmp_path) as keyed:
            begun = await begin(keyed, keyed.nodes[0], BOB, tokens=200, events=3)
            cut_off = keyed.stores[2]
            cut_off.is_away = True
            keyed.publish(document(KEYS.keys[0], replace(KEYS.keys[1], revoked=1.0), KEYS.keys[2]))
            for node in keyed.nodes[:2]:
                await eventually(f"{node.instance_id} refuses", partial(keyed.refuses, node, BOB), 5.0)
                assert (await resume(keyed, node, BOB, begun.token, begun.last_id)).status == 401
                assert await keyed.accepts(node, ALICE)
            assert await keyed.accepts(keyed.nodes[2], BOB), "it cannot know"

            async def says_how_old_its_keys_are() -> bool:
                text = (await keyed.fleet.http.get(f"{keyed.nodes[2].admin_url}/metrics")).text
                age = next(line for line in text.splitlines() if line.startswith("synkti_client_keys_age_seconds"))
                return float(age.split()[1]) > 0.2

            await eventually("the age of its keys grows", says_how_old_its_keys_are, 5.0)
            cut_off.is_away = False
            await eventually("the healed node refuses", partial(keyed.refuses, keyed.nodes[2], BOB), 5.0)

    asyncio.run(scenario())


def test_a_key_never_reaches_an_engine_a_log_or_the_audit_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")

    async def scenario() -> None:
        async with keyed_fleet(tmp_path, size=2) as keyed:
            await reference(keyed, 3)
            begun = await begin(keyed, keyed.nodes[0], ALICE, tokens=8, events=2)
            await resume(keyed, keyed.nodes[1], ALICE, begun.token, begun.last_id)
            await resume(keyed, keyed.nodes[1], BOB, begun.token, begun.last_id)
            for path, asked in (
                ("responses", {"input": "night train", "max_output_tokens": 9}),
                ("messages", MESSAGES),
            ):
                body = {"model": "m", "stream": True, **asked}
                await keyed.fleet.http.post(f"{keyed.nodes[0].url}/v1/{path}", json=body, headers=bearer(ALICE))
            await asyncio.sleep(1.2)  # the audit log is written once a second
            lines = [orjson.loads(line) for audit in keyed.audits for line in audit.lines]
            served = [line for line in lines if line["route"] == "/v1/completions"]
            assert {line["name"] for line in served} == {"alice"}
            assert {line["key"] for line in served} == {ALICE.key_id}
            assert any(line.get("tokens_in") and line.get("tokens_out") == 3 for line in served), "in one piece"
            counted = [line for line in lines if line["route"] in ("/v1/responses", "/v1/messages")]
            assert len(counted) == 2
            assert all(line["tokens_in"] > 0 and 0 < line["tokens_out"] <= 9 for line in counted), counted
            assert {line.get("stream") for line in served} == {None, begun.token[:24]}
            foreign = [line for line in lines if line["route"] == "/v1/streams/" and line["name"] == "bob"]
            assert [line["status"] for line in foreign] == [404]
            written = b"".join(line for audit in keyed.audits for line in audit.lines).decode()
            written += "\n".join(line.getMessage() for line in caplog.records if line.name.startswith("node_agent"))
            for secret in (ALICE.text[-64:].decode(), BOB.text[-64:].decode(), begun.token, "night train"):
                assert secret not in written

    asyncio.run(scenario())


def test_a_caller_without_a_key_is_refused_before_its_body_is_read(tmp_path: Path) -> None:
    async def check(keyed: KeyedFleet) -> None:
        node = keyed.fleet.nodes[0]
        for path, form in (("/v1/completions", "invalid_api_key"), ("/v1/messages", "authentication_error")):
            reader, writer = await asyncio.open_connection(node.host, 8000)
            head = (
                f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 10000000\r\n\r\n"
            )
            writer.write(head.encode() + b"{" * 200_000)
            async with asyncio.timeout(10):
                answer = await reader.readuntil(b"\r\n\r\n")
                body = await reader.readexactly(int(answer.lower().split(b"content-length: ")[1].split(b"\r\n")[0]))
            assert answer.startswith(b"HTTP/1.1 401 ")
            assert b"www-authenticate: Bearer" in answer
            assert form.encode() in body
            assert b"synkti_body_bytes 0.0" in node.agent.parts.node.metrics.exposition()
            writer.close()

    async def scenario() -> None:
        async with keyed_fleet(tmp_path, size=1) as keyed:
            await check(keyed)

    asyncio.run(scenario())
