"""The client at https nodes, over real sockets: which certificates it accepts, and what it makes of a list of nodes."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import synkti_client
from node_agent.adapters.certificate_files import CertificateFiles
from node_agent.adapters.http_server import HttpServer, bind
from node_agent.ports import ServerRequest
from synkti_client._nodes import Nodes
from tests.unit.adapters.certificates import Authority

IMPATIENT = synkti_client.RetryPolicy(max_unreachable_s=0.2)


async def answer(request: ServerRequest) -> None:
    request.respond(200, b'{"object": "list"}')


@contextlib.asynccontextmanager
async def node(folder: Path, addresses: tuple[str, ...]) -> AsyncIterator[tuple[str, Authority]]:
    """Run a node with a certificate for node.test and these addresses; yield its URL and who signed it."""
    authority = Authority(folder)
    pair = authority.pair(addresses=addresses)
    context = (await CertificateFiles(pair.certificate, pair.key).load()).context
    server, listener = HttpServer(answer), bind("127.0.0.1", 0, "API")
    server.use_tls(lambda: context)
    await server.start(listener)
    try:
        yield f"https://127.0.0.1:{listener.getsockname()[1]}", authority
    finally:
        await server.close(0.1)


@pytest.mark.parametrize(
    ("addresses", "server_name", "trusts"),
    [
        (("127.0.0.1",), None, True),
        ((), "node.test", True),
        ((), None, False),  # the certificate is for a name, and it was called by its address
        (("127.0.0.1",), "other.test", False),
    ],
)
def test_a_certificate_of_a_trusted_authority_for_the_name_is_accepted(
    tmp_path: Path, addresses: tuple[str, ...], server_name: str | None, trusts: bool
) -> None:
    async def story() -> None:
        async with node(tmp_path, addresses) as (url, authority):
            checks = synkti_client.Tls(authority.bundle, server_name)
            await _request(url, checks, trusts=trusts)

    asyncio.run(story())


def test_a_certificate_of_another_authority_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = Authority(tmp_path / "other")

    async def story() -> None:
        async with node(tmp_path, ("127.0.0.1",)) as (url, _):
            await _request(url, synkti_client.Tls(other.bundle), trusts=False)
            await _request(url, None, trusts=False)

    asyncio.run(story())


async def _request(url: str, checks: synkti_client.Tls | None, *, trusts: bool) -> None:
    async with synkti_client.async_http_client([url], tls=checks, retry_policy=IMPATIENT) as client:
        if trusts:
            assert (await client.get("http://synkti/v1/models")).status_code == 200
        else:
            with pytest.raises(synkti_client.NoNodeAnswers):
                await client.get("http://synkti/v1/models")
    sync_client = synkti_client.http_client([url], tls=checks, retry_policy=IMPATIENT)
    try:
        if trusts:
            assert (await asyncio.to_thread(sync_client.get, "http://synkti/v1/models")).status_code == 200
    finally:
        sync_client.close()


@pytest.mark.parametrize("content", [None, "hello", ""])
def test_a_bundle_that_cannot_be_used_is_an_error_with_its_name(tmp_path: Path, content: str | None) -> None:
    bundle = tmp_path / "ca.pem"
    if content is not None:
        bundle.write_text(content)
    with pytest.raises(ValueError, match=r"the CA bundle .*ca\.pem cannot be read"):
        synkti_client.http_client(["https://a:1"], tls=synkti_client.Tls(bundle))


@pytest.mark.parametrize(
    ("scheme", "expected"), [("https", "https"), ("http", "http"), (None, "http"), ("ftp", "http"), (1, "http")]
)
def test_listed_nodes_have_the_scheme_that_the_fleet_names(scheme: object, expected: str) -> None:
    nodes = Nodes([], "https://llm.example.com/v1/synkti/nodes")
    listed = {"nodes": [{"front": "10.0.1.5:8000", "model": "m"}], **({"scheme": scheme} if scheme else {})}
    assert nodes.update_from("https://llm.example.com/v1/synkti/nodes", json.dumps(listed).encode())
    assert nodes.by_preference() == [f"{expected}://10.0.1.5:8000"]


def test_the_name_in_the_nodes_certificates_is_not_that_of_the_discovery() -> None:
    discovery = "https://llm.example.com/v1/synkti/nodes"
    nodes = Nodes(["https://10.0.1.5:8000"], discovery, "node.test")
    assert nodes.extensions(discovery, {}) == {"timeout": {}}
    assert nodes.extensions("https://10.0.1.5:8000", {})["sni_hostname"] == "node.test"
