"""Clients that resume at another node after their entry crashed, drained or was cut off."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from local.fake_engine.model import encode
from node_agent.contract.names import EVENT_IDS_HEADER
from node_agent.core.journal.stream_claim import STREAM_CHARACTERS
from node_agent.core.replication.replica_store import RETENTION_S
from tests.scenarios.local_fleet import LocalFleet, LocalNode, eventually
from tests.scenarios.streams import CHAT, PATHS, PLAIN, expected, run_scenario

BODIES = {"chat": CHAT, "plain": PLAIN}


@dataclass
class Reader:
    """A client that accumulates what it received, over all of its connections. token: with which it resumes."""

    fleet: LocalFleet
    token: str = ""
    last_id: str = ""
    text: dict[int, str] = field(default_factory=dict)
    finish_reasons: list[str] = field(default_factory=list)
    error: dict[str, Any] | None = None
    done: bool = False
    events: int = 0

    @property
    def stream(self) -> str:
        """The stream's id, as nodes have it in journals and in the table."""
        return self.token[:STREAM_CHARACTERS]

    async def request(self, entry: LocalNode, kind: str, until: int = 10**9, **fields: Any) -> httpx.Response:
        body = {**BODIES[kind], **fields, "stream": True}
        headers = {EVENT_IDS_HEADER: "true", **fields.pop("headers", {})}
        body.pop("headers", None)
        async with self.fleet.http.stream("POST", entry.url + PATHS[kind], json=body, headers=headers) as response:
            self.token = response.headers.get("x-synkti-stream", "")
            await self._read(response, until)
        return response

    async def resume(self, entry: LocalNode, until: int = 10**9) -> int:
        headers = {"last-event-id": self.last_id} if self.last_id else {}
        async with self.fleet.http.stream("GET", f"{entry.url}/v1/streams/{self.token}", headers=headers) as response:
            if response.status_code == 200:
                await self._read(response, until)
            else:
                self.error = json.loads(await response.aread())["error"]
        return response.status_code

    async def _read(self, response: httpx.Response, until: int) -> None:
        held = b""
        try:
            async for data in response.aiter_raw():
                *events, held = (held + data).split(b"\n\n")
                for event in events:
                    self._event(event)
                if self.done or self.events >= until:
                    return
        except httpx.TransportError:
            return

    def _event(self, event: bytes) -> None:
        self.events += 1
        lines = dict(line.split(b": ", 1) for line in event.split(b"\n") if not line.startswith(b":"))
        self.last_id = lines.get(b"id", self.last_id.encode()).decode()
        payload = lines[b"data"]
        if payload == b"[DONE]":
            self.done = True
            return
        chunk = json.loads(payload)
        self.error = chunk.get("error", self.error)
        for choice in chunk.get("choices", ()):
            part = choice["delta"].get("content") or "" if "delta" in choice else choice["text"]
            self.text[choice["index"]] = self.text.get(choice["index"], "") + part
            self.finish_reasons += [choice["finish_reason"]] if choice["finish_reason"] else []

    def check_whole(self, kind: str, choices: int = 1) -> None:
        right = expected(kind, BODIES[kind])
        assert self.text == dict.fromkeys(range(choices), right.text)
        assert self.finish_reasons == [right.finish_reason] * choices
        assert self.done


async def metric(fleet: LocalFleet, node: LocalNode, name: str) -> float:
    text = (await fleet.http.get(f"{node.admin_url}/metrics")).text
    return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(name))


@pytest.mark.parametrize("kind", ["chat", "plain"])
@pytest.mark.parametrize("events", [1, 40])
def test_a_stream_survives_the_crash_of_its_entry(tmp_path: Path, kind: str, events: int) -> None:
    async def scenario(fleet: LocalFleet) -> None:
        entry, *others = fleet.nodes
        reader = Reader(fleet)
        reading = asyncio.create_task(reader.request(entry, kind))
        await eventually("enough events arrived", lambda: _soon(reader.events >= events))
        await entry.crash()
        await reading
        assert not reader.done
        assert await reader.resume(others[0]) == 200
        reader.check_whole(kind)

    run_scenario(tmp_path, scenario)


async def _soon(value: bool) -> bool:
    return value


def test_a_stream_resumes_at_one_entry_after_another(tmp_path: Path) -> None:
    async def scenario(fleet: LocalFleet) -> None:
        reader = Reader(fleet)
        await reader.request(fleet.nodes[0], "chat", until=30)
        for entry, until in ((fleet.nodes[1], 60), (fleet.nodes[2], 90), (fleet.nodes[0], 120)):
            assert await reader.resume(entry, until) == 200
        assert await reader.resume(fleet.nodes[1]) == 200
        reader.check_whole("chat")
        assert reader.last_id.count("/") == 2, "the id names the owner"

    run_scenario(tmp_path, scenario)


PROMPT_IDS = encode(str(PLAIN["prompt"]))


@pytest.mark.parametrize(
    "fields",
    [
        {"n": 3, "temperature": 1},
        {"logprobs": 1},
        {"echo": True},
        {"echo": True, "logprobs": 1},
        {"echo": True, "prompt": PROMPT_IDS},
    ],
    ids="-".join,
)
def test_choices_logprobs_and_echo_survive_the_crash_of_the_entry(tmp_path: Path, fields: dict[str, Any]) -> None:
    async def scenario(fleet: LocalFleet) -> None:
        entry, *others = fleet.nodes
        reader = Reader(fleet)
        reading = asyncio.create_task(reader.request(entry, "plain", **fields))
        await eventually("enough events arrived", lambda: _soon(reader.events >= 60))
        await entry.crash()
        await reading
        assert await reader.resume(others[0]) == 200
        if "echo" in fields:
            assert reader.text[0].startswith(PLAIN["prompt"])  # type: ignore[arg-type]
            reader.text[0] = reader.text[0].removeprefix(PLAIN["prompt"])  # type: ignore[arg-type]
        reader.check_whole("plain", choices=fields.get("n", 1))

    run_scenario(tmp_path, scenario)


def test_an_owner_cut_off_from_its_client_delivers_nothing_after_a_takeover(tmp_path: Path) -> None:
    async def scenario(fleet: LocalFleet) -> None:
        old, new = Reader(fleet), Reader(fleet)
        reading = asyncio.create_task(old.request(fleet.nodes[0], "chat"))
        await eventually("enough events arrived", lambda: _soon(old.events >= 30))
        new.token, new.last_id, new.text = old.token, old.last_id, dict(old.text)
        assert await new.resume(fleet.nodes[1]) == 200
        await reading
        assert old.error is not None
        assert old.error["code"] == "stream_taken"
        assert not old.done
        assert await metric(fleet, fleet.nodes[0], 'synkti_connections_moved_total{code="stream_taken"}') == 1
        new.check_whole("chat")

    run_scenario(tmp_path, scenario)


def test_of_two_clients_that_resume_at_once_exactly_one_gets_the_stream(tmp_path: Path) -> None:
    async def scenario(fleet: LocalFleet) -> None:
        first = Reader(fleet)
        await first.request(fleet.nodes[0], "chat", until=30)
        readers = [Reader(fleet, first.token, first.last_id, dict(first.text)) for _ in range(2)]
        await asyncio.gather(*(r.resume(n) for r, n in zip(readers, fleet.nodes[1:], strict=True)))
        winners = [reader for reader in readers if reader.done]
        assert len(winners) == 1
        winners[0].check_whole("chat")
        loser = next(reader for reader in readers if not reader.done)
        assert loser.error is not None
        assert loser.error["code"] == "stream_taken"

    run_scenario(tmp_path, scenario)


def test_a_client_whose_entry_drains_resumes_at_a_node_that_the_error_names(tmp_path: Path) -> None:
    async def scenario(fleet: LocalFleet) -> None:
        entry, *others = fleet.nodes
        reader = Reader(fleet)
        reading = asyncio.create_task(reader.request(entry, "chat", max_tokens=250))
        await eventually("enough events arrived", lambda: _soon(reader.events >= 20))
        entry.notice(5.5)
        await reading
        assert reader.error is not None
        assert reader.error["code"] == "handoff"
        named = next(node for node in others if f"{node.host}:8000" in reader.error["message"])
        assert await reader.resume(named) == 200
        reader.check_whole("chat")

    run_scenario(tmp_path, scenario, seconds_per_token=0.02)


def test_a_finished_stream_is_replayed_whole_and_expires_after_the_retention(tmp_path: Path) -> None:
    async def scenario(fleet: LocalFleet) -> None:
        first = Reader(fleet)
        await first.request(fleet.nodes[0], "chat", stream_options={"include_usage": True})
        again = Reader(fleet, first.token)
        assert await again.resume(fleet.nodes[1]) == 200
        again.check_whole("chat")
        assert (again.last_id.split("/")[1], again.events) == (first.last_id.split("/")[1], first.events)
        for node in fleet.nodes:
            store = node.agent.parts.replication.server.store
            store.expire(node.agent.parts.replication.server.clock() + RETENTION_S + 1)
        assert await again.resume(fleet.nodes[2]) == 410
        assert again.error is not None
        assert again.error["code"] == "stream_expired"

    run_scenario(tmp_path, scenario)


def test_a_stream_that_cannot_be_resumed_gets_a_specific_error(tmp_path: Path) -> None:
    async def scenario(fleet: LocalFleet) -> None:
        entry = fleet.nodes[0]
        for stream, last, status, code in (
            ("nobody", "", 404, "stream_not_found"),
            ("s", "nonsense", 400, "invalid_event_id"),
            ("s", "t/1", 400, "invalid_event_id"),
        ):
            reader = Reader(fleet, stream, last)
            assert await reader.resume(entry) == status
            assert reader.error is not None
            assert reader.error["code"] == code
        reader = Reader(fleet)
        await reader.request(entry, "chat", until=10)
        reader.last_id = f"{reader.token}/9999"
        assert await reader.resume(fleet.nodes[1]) == 503
        assert reader.error is not None
        assert reader.error["code"] == "journal_behind"
        assert (await fleet.http.post(f"{entry.url}/v1/streams/x")).status_code == 405
        response = await fleet.http.post(
            entry.url + PATHS["chat"], json={**CHAT, "stream": True}, headers={"x-synkti-durability": "maybe"}
        )
        assert response.status_code == 400

    run_scenario(tmp_path, scenario)


def test_while_the_lost_entry_is_known_a_stream_that_no_other_node_has_is_not_called_unknown(tmp_path: Path) -> None:
    """A 404 would end the client's attempts, and the table may lead to the replicas later."""

    async def scenario(fleet: LocalFleet) -> None:
        entry, other = fleet.nodes[:2]
        reader = Reader(fleet)
        await reader.request(entry, "chat", until=10, headers={"x-synkti-durability": "none"})
        await entry.crash()
        assert await reader.resume(other) == 503, "it is not found dead yet"

        async def is_dead() -> bool:
            return entry.instance_id not in [node.instance_id for node in other.agent.parts.node.present]

        await eventually("the entry is found dead", is_dead)
        assert await reader.resume(other) == 503
        assert reader.error is not None
        assert reader.error["code"] == "journal_behind"

    run_scenario(tmp_path, scenario)


def test_a_malformed_id_is_unknown_also_while_a_node_that_may_have_streams_is_away(tmp_path: Path) -> None:
    """It was searched, and as a node did not answer it got a 503, which SDKs try again."""

    async def scenario(fleet: LocalFleet) -> None:
        await fleet.nodes[2].crash()
        reader = Reader(fleet, "f" * 24, "")
        assert await reader.resume(fleet.nodes[0]) == 503, "the lost node may have this one"
        for malformed in ("abc", "F" * 24, f"chatcmpl-{'f' * 24}"):
            reader = Reader(fleet, malformed, "")
            assert await reader.resume(fleet.nodes[0]) == 404
            assert reader.error is not None
            assert reader.error["code"] == "stream_not_found"

    run_scenario(tmp_path, scenario)


def test_with_durability_none_no_peer_has_a_replica_and_the_stream_can_still_be_resumed(tmp_path: Path) -> None:
    async def scenario(fleet: LocalFleet) -> None:
        reader = Reader(fleet)
        await reader.request(fleet.nodes[0], "chat", until=30, headers={"x-synkti-durability": "none"})
        assert all(len(node.agent.parts.replication.server.store) == 0 for node in fleet.nodes[1:])
        assert await reader.resume(fleet.nodes[1]) == 200
        reader.check_whole("chat")

    run_scenario(tmp_path, scenario)


def nodes_with_replicas(nodes: Sequence[LocalNode]) -> list[LocalNode]:
    return [node for node in nodes if len(node.agent.parts.replication.server.store)]


def test_a_crashed_replica_is_replaced_and_the_stream_still_survives_its_entry(tmp_path: Path) -> None:
    async def scenario(fleet: LocalFleet) -> None:
        entry, *others = fleet.nodes
        reader = Reader(fleet)
        reading = asyncio.create_task(reader.request(entry, "chat"))
        await eventually("enough events arrived", lambda: _soon(reader.events >= 20))
        await eventually("two nodes hold a replica", lambda: _soon(len(nodes_with_replicas(others)) == 2))
        holders = nodes_with_replicas(others)
        await holders[0].crash()
        left = [node for node in others if node is not holders[0]]
        await eventually(
            "both other nodes hold a replica",
            lambda: _soon(all(len(n.agent.parts.replication.server.store) for n in left)),
        )
        before = reader.events
        await eventually("10 more events arrived", lambda: _soon(reader.events >= before + 10))
        await entry.crash()
        await reading
        assert await reader.resume(left[0]) == 200
        reader.check_whole("chat")

    run_scenario(tmp_path, scenario, size=4)


def test_an_orphaned_stream_survives_the_crash_of_its_replicas(tmp_path: Path) -> None:
    """The entry crashes, and both nodes with its replicas crash before the client resumes."""

    async def scenario(fleet: LocalFleet) -> None:
        entry, *others = fleet.nodes
        reader = Reader(fleet)
        reading = asyncio.create_task(reader.request(entry, "chat"))
        await eventually("enough events arrived", lambda: _soon(reader.events >= 30))
        await eventually("two nodes hold a replica", lambda: _soon(len(nodes_with_replicas(others)) == 2))
        holders = nodes_with_replicas(others)
        (last,) = [node for node in others if node not in holders]
        await entry.crash()
        await reading
        await eventually(
            "the orphan was replicated to the last node",
            lambda: _soon(len(last.agent.parts.replication.server.store) == 1),
        )
        for holder in holders:
            await holder.crash()
        assert await reader.resume(last) == 200
        reader.check_whole("chat")

    run_scenario(tmp_path, scenario, size=4)


def test_a_disconnected_client_leaves_a_journal_and_no_generation(tmp_path: Path) -> None:
    async def scenario(fleet: LocalFleet) -> None:
        reader = Reader(fleet)
        await reader.request(fleet.nodes[0], "chat", until=30)

        async def idle() -> bool:
            loads = [(await fleet.http.get(f"http://{n.host}:8002/load")).json()["server_load"] for n in fleet.nodes]
            return sum(map(int, loads)) == 0

        await eventually("no engine generates", idle, within_s=1.0)
        assert await reader.resume(fleet.nodes[2]) == 200
        reader.check_whole("chat")

    run_scenario(tmp_path, scenario)
