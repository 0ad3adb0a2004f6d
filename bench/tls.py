"""Measures what TLS between two nodes costs: a relayed token, a new connection, a large body; paired with plain HTTP.

    .venv/bin/python -m bench.tls [--rounds 5]

Two processes of this machine: one serves tokens as a node's peer API does, the other receives them as an entry does. In
each round both ways take turns, with the connections, the tokens and the bodies of the other. CPU time is that of both
processes together.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import ssl
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from statistics import median

import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from rich.console import Console
from rich.table import Table

from bench.command import parse_rounds
from bench.proc import cpu_s
from node_agent.adapters.certificate_files import server_context
from node_agent.adapters.http import HttpClient
from node_agent.adapters.http_limits import Limits
from node_agent.adapters.http_server import HttpServer, bind
from node_agent.adapters.node_key import NodeKey
from node_agent.adapters.peer_tls import PeerTls
from node_agent.core.common.address import Address
from node_agent.ports import ServerRequest
from node_agent.testing.fake_keys import MemoryPeerKeys

STREAMS, TOKENS, TOKEN_INTERVAL_S = 50, 400, 0.005
TOKEN = (
    b'data: {"id":"chatcmpl-0123456789abcdef","choices":[{"index":0,"delta":{"content":" night"}}]}'
    + b" " * 90
    + b"\n\n"
)
CONNECTIONS = 300
BODY_BYTES, BODIES = 8 * 1024 * 1024, 12
HANDSHAKES = 200
_DAY = timedelta(days=1)
PLAIN, TLS = "plain", "TLS"


@dataclass(frozen=True)
class Figures:
    """One way's figures of one round. token_us, connection_us: CPU; body: MiB for each second, and CPU for each MiB."""

    token_us: float
    connection_us: float
    connection_ms: float
    body_mib_per_s: float
    body_us_per_mib: float


async def _serve_tokens(request: ServerRequest) -> None:
    if request.target == "/tokens":
        request.begin(200, b"text/event-stream")
        for _ in range(TOKENS):
            request.write(TOKEN)
            await asyncio.sleep(TOKEN_INTERVAL_S)
        request.end()
    elif request.target == "/body":
        request.respond(200, b"x" * BODY_BYTES)
    else:
        request.respond(200, b"{}")


def _drop(data: bytes) -> None:
    """Drop received bytes."""


def _serve(listeners: dict[str, socket.socket], tls: PeerTls) -> None:
    """Serve both ways, until killed."""

    async def run() -> None:
        for name, listener in listeners.items():
            server = HttpServer(_serve_tokens, Limits(document=None))
            if name == TLS:
                server.use_tls(lambda: tls.server, tls)
            await server.start(listener)
        await asyncio.Event().wait()

    uvloop.run(run())


class Bench:
    """The receiving side. pids: of both processes."""

    def __init__(self, addresses: dict[str, Address], tls: PeerTls, server_pid: int) -> None:
        self._addresses = addresses
        self._tls = tls
        self._pids = (os.getpid(), server_pid)

    def _client(self, name: str) -> HttpClient:
        return HttpClient(tls=self._tls if name == TLS else None)

    async def _get(self, client: HttpClient, name: str, target: str, sink: Callable[[bytes], None]) -> None:
        response = await client.open(self._addresses[name], "GET", target, headers={}, read_timeout_s=30.0)
        await response.pipe(sink)
        response.close()

    async def _measured(self, work: Awaitable[None]) -> tuple[float, float]:
        """Return the seconds and the CPU seconds of both processes that some work took."""
        began, before = time.monotonic(), sum(map(cpu_s, self._pids))
        await work
        return time.monotonic() - began, sum(map(cpu_s, self._pids)) - before

    async def round(self, name: str) -> Figures:
        """Measure one way."""
        client = self._client(name)

        async def tokens() -> None:
            await asyncio.gather(*(self._get(client, name, "/tokens", _drop) for _ in range(STREAMS)))

        async def connections() -> None:
            for _ in range(CONNECTIONS):
                other = self._client(name)
                await self._get(other, name, "/x", _drop)
                await other.close()

        async def bodies() -> None:
            for _ in range(BODIES):
                await self._get(client, name, "/body", _drop)

        await self._get(client, name, "/x", _drop)
        _, token_cpu = await self._measured(tokens())
        connection_s, connection_cpu = await self._measured(connections())
        body_s, body_cpu = await self._measured(bodies())
        await client.close()
        mib = BODIES * BODY_BYTES / 1024**2
        return Figures(
            token_cpu / STREAMS / TOKENS * 1e6,
            connection_cpu / CONNECTIONS * 1e6,
            connection_s / CONNECTIONS * 1e3,
            mib / body_s,
            body_cpu / mib * 1e6,
        )


def report(rounds: list[dict[str, Figures]]) -> Table:
    """Build the table: the medians of both ways, and the median of the differences within a round."""
    table = Table(title=f"{STREAMS} streams, {TOKENS} tokens of {len(TOKEN)} bytes; medians of {len(rounds)} rounds")
    for column in ("what", PLAIN, TLS, "TLS more, paired"):
        table.add_column(column)
    for label, field in (
        ("CPU for each relayed token, us", "token_us"),
        ("CPU for each new connection and a request, us", "connection_us"),
        ("time of a new connection and a request, ms", "connection_ms"),
        ("a body of 8 MiB, MiB/s", "body_mib_per_s"),
        ("CPU for each MiB of a body, us", "body_us_per_mib"),
    ):
        values = {name: median(getattr(each[name], field) for each in rounds) for name in (PLAIN, TLS)}
        more = median(getattr(each[TLS], field) - getattr(each[PLAIN], field) for each in rounds)
        table.add_row(label, f"{values[PLAIN]:.2f}", f"{values[TLS]:.2f}", f"{more:+.2f}")
    return table


def handshake_us(private: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey, tickets: int) -> float:
    """Return the CPU time of the server's side of a handshake of the client API, in microseconds, without sockets."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "node.test")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(private.public_key())
    builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now).not_valid_after(now + _DAY)
    server, client = server_context(), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    server.num_tickets = tickets
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    with tempfile.NamedTemporaryFile() as file:
        file.write(builder.sign(private, hashes.SHA256()).public_bytes(Encoding.PEM))
        file.write(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        file.flush()
        server.load_cert_chain(file.name)
    return median(_handshake_s(server, client) for _ in range(HANDSHAKES)) * 1e6


def _handshake_s(server: ssl.SSLContext, client: ssl.SSLContext) -> float:
    """Return the CPU seconds of the server's side of one handshake."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = server.wrap_bio(to_server, to_client, server_side=True)
    theirs = client.wrap_bio(to_client, to_server)
    took = 0.0
    for _ in range(2):
        with contextlib.suppress(ssl.SSLWantReadError):
            theirs.do_handshake()
        began = time.process_time()
        with contextlib.suppress(ssl.SSLWantReadError):
            ours.do_handshake()
        took += time.process_time() - began
    return took


def report_handshakes() -> Table:
    """Measure and build the table of the client API's handshakes."""
    table = Table(title=f"CPU of a node for one handshake of the client API, us; medians of {HANDSHAKES}")
    for column in ("key of the certificate", "with two tickets", "without"):
        table.add_column(column)
    rsa_key, ec_key = rsa.generate_private_key(65537, 2048), ec.generate_private_key(ec.SECP256R1())
    for label, private in (("P-256", ec_key), ("RSA 2048", rsa_key)):
        table.add_row(label, *(f"{handshake_us(private, tickets):.0f}" for tickets in (2, 0)))
    return table


def main() -> int:
    """Run the measurement; print the tables."""
    count = parse_rounds("bench.tls", 5, "rounds, each with both ways in turn (default: 5)")
    keys = MemoryPeerKeys()
    sides = []
    for node_id in ("i-server", "i-client"):
        key = NodeKey.generate()
        keys.keys[node_id] = key.public
        sides.append(
            PeerTls(
                key, node_id, (b"the cluster's key",), keys,
                nodes_at=lambda address: {"i-server"}, on_rejected=print, clock=time.monotonic,
            )
        )  # fmt: skip
    listeners = {name: bind("127.0.0.1", 0, name) for name in (PLAIN, TLS)}
    server = os.fork()
    if server == 0:
        _serve(listeners, sides[0])
        os._exit(0)
    try:
        addresses = {name: Address(*listener.getsockname()) for name, listener in listeners.items()}
        Console().print(report(uvloop.run(_rounds(Bench(addresses, sides[1], server), count))))
        Console().print(report_handshakes())
    finally:
        os.kill(server, signal.SIGKILL)
        os.waitpid(server, 0)
    return 0


async def _rounds(bench: Bench, count: int) -> list[dict[str, Figures]]:
    rounds = []
    for number in range(count):
        order = (PLAIN, TLS) if number % 2 else (TLS, PLAIN)
        rounds.append({name: await bench.round(name) for name in order})
    return rounds


if __name__ == "__main__":
    sys.exit(main())
