"""TLS between nodes, over real sockets: both sides check each other by their keys, and nothing crosses in the clear."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest
import uvloop
from cryptography import x509

from node_agent.adapters.http import HttpClient
from node_agent.adapters.http_limits import Limits
from node_agent.adapters.http_server import HttpServer, bind
from node_agent.adapters.node_key import NodeKey, public_key_of_certificate
from node_agent.adapters.peer_authority import PeerAuthority
from node_agent.adapters.peer_tls import PeerTls, _load_chain
from node_agent.core.common.address import Address
from node_agent.core.failure.loss import LossReason
from node_agent.ports import ExchangeLost, ServerRequest
from node_agent.testing.fake_keys import MemoryPeerKeys
from tests.unit.adapters.door_stage import until

CLUSTER_KEY = b"the cluster's key"
PROMPT = b"a prompt that only its nodes may read"
RUNNERS = {"asyncio": asyncio.run, "uvloop": uvloop.run}


@dataclass
class Fleet:
    """Nodes with keys, and the record of these that all share."""

    keys: MemoryPeerKeys = field(default_factory=MemoryPeerKeys)
    at: dict[Address, set[str]] = field(default_factory=dict)
    rejected: list[str] = field(default_factory=list)

    def node(
        self, node_id: str, *, cluster_keys: tuple[bytes, ...] = (CLUSTER_KEY,), key: NodeKey | None = None
    ) -> PeerTls:
        key = key or NodeKey.generate()
        self.keys.keys.setdefault(node_id, key.public)
        return PeerTls(
            key,
            node_id,
            cluster_keys,
            self.keys,
            nodes_at=lambda address: self.at.get(address, set()),
            on_rejected=self.rejected.append,
            clock=lambda: 0.0,
        )


async def answer_with_peer(request: ServerRequest) -> None:
    request.respond(200, request.peer.encode() + b" sent " + str(len(request.body)).encode())


@contextlib.asynccontextmanager
async def serving(tls: PeerTls) -> AsyncIterator[tuple[HttpServer, Address, list[str]]]:
    refused: list[str] = []
    listener = bind("127.0.0.1", 0, "peer API")
    server = HttpServer(answer_with_peer, Limits(), on_refused=refused.append)
    server.use_tls(lambda: tls.server, tls)
    address = Address(*listener.getsockname())
    await server.start(listener)
    try:
        async with asyncio.timeout(20):
            yield server, address, refused
    finally:
        await server.close(0.1)


async def request(client: HttpClient, address: Address, body: bytes = PROMPT) -> bytes:
    response = await client.open(address, "POST", "/x", headers={}, body=body, read_timeout_s=5.0)
    try:
        return await response.read_all(10_000)
    finally:
        response.close()


Story = Callable[[Fleet], Coroutine[Any, Any, None]]


def run(story: Story, runner: str = "uvloop") -> None:
    RUNNERS[runner](story(Fleet()))


@pytest.mark.parametrize("runner", RUNNERS)
def test_two_nodes_identify_each_other_by_their_keys(runner: str) -> None:
    async def story(fleet: Fleet) -> None:
        one, two = fleet.node("i-one"), fleet.node("i-two")
        async with serving(one) as (server, address, _):
            fleet.at[address] = {"i-one"}
            client = HttpClient(tls=two)
            for _ in range(3):
                assert await request(client, address) == b"i-two sent %d" % len(PROMPT)
            assert len(server.connections) == 1, "the connection is kept"
            await client.close()

    run(story, runner)


def test_the_connection_is_tls_1_3_without_tickets() -> None:
    async def story(fleet: Fleet) -> None:
        one, two = fleet.node("i-one"), fleet.node("i-two")
        async with serving(one) as (_, address, _refused):
            _, writer = await asyncio.open_connection(address.host, address.port, ssl=two.client)
            connection = writer.get_extra_info("ssl_object")
            assert connection.version() == "TLSv1.3"
            writer.write(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
            assert not connection.session.has_ticket
            old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
            old.maximum_version = ssl.TLSVersion.TLSv1_2
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await asyncio.open_connection(address.host, address.port, ssl=old)
            writer.close()

    run(story)


def test_a_node_accepts_no_other_server_than_the_expected_one() -> None:
    """Its address may have changed hands, or a node that was taken over may answer there."""

    async def story(fleet: Fleet) -> None:
        one, two = fleet.node("i-one"), fleet.node("i-two")
        async with serving(one) as (server, address, _):
            fleet.at[address] = {"i-three"}
            client = HttpClient(tls=two)
            with pytest.raises(ExchangeLost) as lost:
                await request(client, address)
            assert lost.value.loss is LossReason.UNREACHABLE
            assert fleet.rejected == ["other-node"]
            await until(lambda: not server.connections)
            del fleet.at[address]
            assert await request(client, address), "where membership has no node, any on record"
            await client.close()

    run(story)


def test_a_key_that_is_on_no_record_is_refused_by_both_sides() -> None:
    async def story(fleet: Fleet) -> None:
        one = fleet.node("i-one")
        fleet.keys.keys["i-two"] = NodeKey.generate().public  # not the one that it has: of an earlier run, or stolen
        two = fleet.node("i-two")
        async with serving(one) as (server, address, refused):
            client = HttpClient(tls=two)
            with pytest.raises(ExchangeLost):
                await request(client, address)
            await until(lambda: refused == ["unknown_peer"] and not server.connections)
            assert fleet.rejected == ["unknown-key"]
            await client.close()
        async with serving(two) as (_, address, _refused):
            client = HttpClient(tls=one)
            with pytest.raises(ExchangeLost) as lost:
                await request(client, address)
            assert lost.value.loss is LossReason.UNREACHABLE
            await client.close()

    run(story)


def _stranger(fleet: Fleet) -> ssl.SSLContext:
    return fleet.node("i-stranger", cluster_keys=(b"another cluster's",)).client


def _without_certificate(fleet: Fleet) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def _self_signed(fleet: Fleet) -> ssl.SSLContext:
    """With the right key of a node, but without the cluster's key."""
    key = NodeKey.generate()
    fleet.keys.keys["i-two"] = key.public
    context = _without_certificate(fleet)
    pair = key.certificate("i-two", datetime.now(UTC))
    _load_chain(context, pair.certificate + pair.private_key)
    return context


@pytest.mark.parametrize("make", [_stranger, _without_certificate, _self_signed])
def test_a_stranger_does_not_finish_a_handshake(make: Callable[[Fleet], ssl.SSLContext]) -> None:
    async def story(fleet: Fleet) -> None:
        async with serving(fleet.node("i-one")) as (server, address, refused):
            context = make(fleet)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                reader, writer = await asyncio.open_connection(address.host, address.port, ssl=context)
                writer.write(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
                assert await reader.read() == b""
                writer.close()
            await until(lambda: refused == ["tls_handshake"] and not server.connections)

    run(story)


def test_a_peer_without_tls_gets_an_error() -> None:
    async def story(fleet: Fleet) -> None:
        async with serving(fleet.node("i-one")) as (_, address, refused):
            client = HttpClient()
            answer = await request(client, address)
            assert json.loads(answer)["error"]["code"] == "tls_required"
            assert refused == ["no_tls"]
            await client.close()

    run(story)


def test_a_node_that_is_shut_out_loses_its_open_connections() -> None:
    async def story(fleet: Fleet) -> None:
        one, two = fleet.node("i-one"), fleet.node("i-two")
        async with serving(one) as (server, address, _):
            client = HttpClient(tls=two)
            await request(client, address)
            one.close_rejected()
            assert len(server.connections) == 1
            key = fleet.keys.keys.pop("i-two")
            one.close_rejected()
            await until(lambda: not server.connections)
            with pytest.raises(ExchangeLost):
                await request(client, address)
            fleet.keys.keys["i-two"] = key
            assert await request(client, address)
            await until(lambda: len(one._accepted) == 1)
            await client.close()
            await until(lambda: not server.connections)
            one.close_rejected()
            assert not one._accepted, "an ended connection is not held"

    run(story)


def test_while_the_clusters_key_changes_nodes_with_both_reach_all() -> None:
    async def story(fleet: Fleet) -> None:
        old, new = b"the old key", b"the new key"
        nodes = {
            "i-old": fleet.node("i-old", cluster_keys=(old,)),
            "i-both": fleet.node("i-both", cluster_keys=(old, new)),
            "i-newer": fleet.node("i-newer", cluster_keys=(new, old)),
            "i-new": fleet.node("i-new", cluster_keys=(new,)),
        }
        can_not = {("i-old", "i-newer"), ("i-old", "i-new"), ("i-both", "i-new")}
        for server_id, tls in nodes.items():
            async with serving(tls) as (_, address, _refused):
                for client_id, other in nodes.items():
                    client = HttpClient(tls=other)
                    if {(client_id, server_id), (server_id, client_id)} & can_not:
                        with pytest.raises(ExchangeLost):
                            await request(client, address)
                    else:
                        assert (await request(client, address)).startswith(client_id.encode())
                    await client.close()
        nodes["i-old"].use_cluster_keys((new,))
        async with serving(nodes["i-new"]) as (_, address, _refused):
            client = HttpClient(tls=nodes["i-old"])
            assert await request(client, address)
            await client.close()

    run(story)


async def _record(address: Address, seen: bytearray) -> tuple[asyncio.Server, Address]:
    """Forward connections to an address, and record all bytes of both directions."""

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                seen.extend(data)
                writer.write(data)
                await writer.drain()
        writer.close()

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        to_reader, to_writer = await asyncio.open_connection(address.host, address.port)
        await asyncio.gather(pump(reader, to_writer), pump(to_reader, writer))

    server = await asyncio.start_server(forward, "127.0.0.1", 0)
    return server, Address(*server.sockets[0].getsockname())


@pytest.mark.parametrize("encrypted", [True, False])
def test_a_listener_between_two_nodes_reads_no_prompt(encrypted: bool) -> None:
    async def story(fleet: Fleet) -> None:
        one, two = fleet.node("i-one"), fleet.node("i-two")
        listener = bind("127.0.0.1", 0, "peer API")
        server = HttpServer(answer_with_peer, Limits())
        if encrypted:
            server.use_tls(lambda: one.server, one)
        await server.start(listener)
        seen = bytearray()
        recorder, address = await _record(Address(*listener.getsockname()), seen)
        client = HttpClient(tls=two if encrypted else None)
        assert await request(client, address)
        await client.close()
        recorder.close()
        await server.close(0.1)
        assert (PROMPT in seen) is not encrypted
        assert (b"POST" in seen) is not encrypted

    run(story)


def test_a_large_body_and_a_large_answer_arrive_whole() -> None:
    size = 12_000_000

    async def large(request: ServerRequest) -> None:
        request.respond(200, request.body)

    async def story(fleet: Fleet) -> None:
        one, two = fleet.node("i-one"), fleet.node("i-two")
        listener = bind("127.0.0.1", 0, "peer API")
        server = HttpServer(large, Limits(document=None))
        server.use_tls(lambda: one.server, one)
        await server.start(listener)
        client = HttpClient(tls=two)
        body = b"kv block " * (size // 9)
        response = await client.open(
            Address(*listener.getsockname()), "POST", "/x", headers={}, body=body, read_timeout_s=10.0
        )
        assert await response.read_all(2 * size) == body
        response.close()
        await client.close()
        await server.close(0.1)

    run(story)


def test_an_authority_is_the_same_at_every_node_and_another_for_another_key() -> None:
    own = NodeKey.generate()
    certificate = own.certificate("i-one", datetime.now(UTC)).certificate
    one, same, other = PeerAuthority(b"k"), PeerAuthority(b"k"), PeerAuthority(b"l")
    issued = one.issue(certificate)
    assert public_key_of_certificate(ssl.PEM_cert_to_DER_cert(issued.decode())) == own.public
    leaf, ca, stranger = (x509.load_pem_x509_certificate(pem) for pem in (issued, same.certificate, other.certificate))
    leaf.verify_directly_issued_by(ca)
    with pytest.raises(ValueError, match="Issuer"):
        leaf.verify_directly_issued_by(stranger)
