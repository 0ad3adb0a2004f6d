"""A fleet with TLS: on its client API, between its nodes, and with clients that lose the node they are connected to."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import ssl
from pathlib import Path
from typing import Any

import openai

import synkti_client
from tests.scenarios.clients import gateway, urls
from tests.scenarios.local_fleet import LocalFleet
from tests.scenarios.streams import CHAT, expected, find_engine, open_stream, read_until, run_scenario
from tests.scenarios.test_clients import RIGHT, interrupted, read_async
from tests.unit.adapters.certificates import Authority


def secured(authority: Authority) -> dict[str, Any]:
    """Return the options of a fleet whose nodes share one certificate, for the name node.test."""
    pair = authority.pair(addresses=())
    return {
        "SYNKTI_TLS_CERTIFICATE": str(pair.certificate),
        "SYNKTI_TLS_KEY": str(pair.key),
        "verify": authority.client_context(),
        "server_name": "node.test",
    }


def test_streams_continue_between_nodes_that_speak_tls(tmp_path: Path) -> None:
    async def scenario(fleet: LocalFleet) -> None:
        engine = await find_engine(fleet, "chat", CHAT)
        entry = fleet.others(engine)[0]
        async with open_stream(fleet, entry, "chat", CHAT) as reader:
            await read_until(reader, 40, engine.kill_engine)
        assert (reader.error, reader.text) == (None, expected("chat", CHAT).text)
        plain = await fleet.http.get(f"http://{entry.host}:8001/peer/v1/x")
        assert plain.json()["error"]["code"] == "tls_required"
        figures = (await fleet.http.get(f"{entry.admin_url}/metrics")).text
        assert "synkti_unreplicated_events_total 0.0" in figures, "replication connections are encrypted, too"
        assert "synkti_peer_rejections_total{" not in figures

    run_scenario(tmp_path, scenario, SYNKTI_PEER_TLS="on")


def test_a_client_continues_its_stream_at_another_node_over_tls(tmp_path: Path) -> None:
    authority = Authority(tmp_path)

    async def scenario(fleet: LocalFleet) -> None:
        checks = synkti_client.Tls(authority.bundle, server_name="node.test")
        http = synkti_client.async_http_client(urls(fleet)[:1], tls=checks)
        async with openai.AsyncOpenAI(base_url="http://synkti/v1", api_key="none", http_client=http) as client:
            assert await interrupted(fleet, read_async(client)) == (RIGHT.text, RIGHT.finish_reason)

    run_scenario(tmp_path, scenario, **secured(authority))


def test_a_stock_client_at_a_gateway_survives_the_loss_of_a_node_over_tls(tmp_path: Path) -> None:
    authority = Authority(tmp_path)

    async def scenario(fleet: LocalFleet) -> None:
        checks = synkti_client.Tls(authority.bundle, server_name="node.test")
        async with (
            gateway(urls(fleet), checks) as base_url,
            openai.AsyncOpenAI(base_url=base_url, api_key="none", max_retries=0) as client,
        ):
            assert await interrupted(fleet, read_async(client)) == (RIGHT.text, RIGHT.finish_reason)

    run_scenario(tmp_path, scenario, **secured(authority))


def test_a_certificate_that_is_replaced_comes_into_use_while_a_stream_goes_on(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    (tmp_path / "next").mkdir()
    renewed = Authority(tmp_path / "next")

    async def scenario(fleet: LocalFleet) -> None:
        entry = fleet.nodes[0]
        pair = renewed.pair(addresses=())

        def replace_files() -> None:
            for new, name in ((pair.certificate, "node.pem"), (pair.key, "node.key")):
                shutil.copy(new, tmp_path / name)

        async with open_stream(fleet, entry, "chat", CHAT) as reader:
            await read_until(reader, 20, replace_files)
        assert (reader.error, reader.text) == (None, expected("chat", CHAT).text)
        watcher = entry.agent.parts.certificate
        assert watcher is not None
        await watcher.poll()

        async def accepted(context: ssl.SSLContext) -> bool:
            with contextlib.suppress(ssl.SSLCertVerificationError):
                _, writer = await asyncio.open_connection(entry.host, 8000, ssl=context, server_hostname="node.test")
                writer.close()
                return True
            return False

        assert await accepted(renewed.client_context())
        assert not await accepted(authority.client_context())

    run_scenario(tmp_path, scenario, size=1, **secured(authority))
