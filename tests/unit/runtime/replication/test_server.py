"""A journal's connection, both of its ends: who may come, what is bounded, and what a loss is called."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any

import orjson
import pytest

from local.aws import free_port
from node_agent.adapters import replication_client
from node_agent.adapters.http_server import HttpServer, bind
from node_agent.adapters.replication_client import TcpReplicaLink, TcpReplicaLinks
from node_agent.core.common.address import Address
from node_agent.core.common.cluster_keys import ClusterKey, cluster_key
from node_agent.core.common.request_auth import Refusal, RequestVerifier, read_stamp, sign_clock
from node_agent.core.journal.epochs import Epoch
from node_agent.core.node.peer_clocks import PeerClocks
from node_agent.core.node.request_signer import PeerName, RequestSigner
from node_agent.core.replication.link_loss import LinkLossReason
from node_agent.core.replication.protocol import APPEND, CLOCK_PREFACE, DROP, MAX_PREFACE_BYTES, OPEN, PREFACE, encode
from node_agent.core.replication.refusal import RefusalReason
from node_agent.core.replication.replica_store import RETENTION_S, ReplicaStore
from node_agent.ports import ServerRequest
from node_agent.runtime.replication import server
from node_agent.runtime.replication.server import ReplicationServer

KEY = cluster_key(b"cluster key")
NOW = 1000.0
LAG_S = 5.0


def signer(key: ClusterKey | Refusal, clocks: PeerClocks | None = None) -> RequestSigner:
    return RequestSigner("i-owner", lambda _: key, lambda _: PeerName("i-replica", "d1"), clocks or PeerClocks())


async def http(request: ServerRequest) -> None:
    request.respond(200, b"http")


class Ends:
    """A server on a free port, and links to it. received: receipts and refusals in order; why: a link was lost."""

    def __init__(self) -> None:
        self.store = ReplicaStore()
        self.journals = ReplicationServer(self.store, RequestVerifier("i-replica", "d1", lambda *_: KEY), lambda: NOW)
        self.listener = bind("127.0.0.1", 0, "peer door")
        self.address = Address("127.0.0.1", self.listener.getsockname()[1])
        self.server = HttpServer(http, alternate=self.journals.alternate_protocol())
        self.received: asyncio.Queue[object] = asyncio.Queue()
        self.why: asyncio.Future[LinkLossReason] = asyncio.get_running_loop().create_future()

    def link(self, key: ClusterKey = KEY, at: float = NOW, address: Address | None = None) -> TcpReplicaLink:
        return TcpReplicaLinks(signer(key), lambda: at, LAG_S, "127.0.0.1").connect(address or self.address, self)

    async def until(self, check: Callable[[], bool]) -> None:
        """The deadline is the story's."""
        while True:
            if check():
                return
            await asyncio.sleep(0)

    # LinkListener

    def acknowledged(self, receipts: Sequence[object]) -> None:
        for receipt in receipts:
            self.received.put_nowait(receipt)

    def overdue(self, receipts: Sequence[object]) -> None:
        for receipt in receipts:
            self.received.put_nowait(f"{receipt} is overdue")

    def refused(self, handle: int, reason: RefusalReason) -> None:
        self.received.put_nowait((handle, reason))

    def lost(self, reason: LinkLossReason) -> None:
        self.why.set_result(reason)


def run_scenario(scenario: Callable[[Ends], Coroutine[Any, Any, None]]) -> None:
    async def run() -> None:
        ends = Ends()
        await ends.server.start(ends.listener)
        async with asyncio.timeout(10):
            await scenario(ends)
        ends.journals.close()
        await ends.server.close(0.1)

    asyncio.run(run())


def open_message(stream: str = "s", epoch: int = 1, lines: bytes = b"") -> bytes:
    named = orjson.dumps({"stream": stream, "epoch": [epoch, "i-a"]})
    return encode(OPEN, 1, lines.count(b"\n"), b"\n".join((named, b"opening", lines)))


def test_lines_are_kept_and_acknowledged_in_their_order() -> None:
    async def scenario(ends: Ends) -> None:
        link = ends.link()
        link.send(open_message(), "opened")
        link.send(encode(APPEND, 1, 1, b"one\ntwo\n"), "two")
        link.send(encode(APPEND, 1, 5, b"five\n"), "five")
        received = [await ends.received.get() for _ in range(4)]
        gap = (1, RefusalReason.GAP)
        assert received == [gap, "opened", "two", "five"], "a refusal comes before the receipts of its batch"
        taken = ends.store.take_over("s", "i-b", NOW)
        assert taken is not None
        assert (taken.header, taken.lines, taken.seq) == (b"opening", b"one\ntwo\n", 2)
        link.send(encode(APPEND, 1, 3, b"three\n"))
        assert await ends.received.get() == (1, RefusalReason.STALE)
        link.close()

    run_scenario(scenario)


def test_a_dropped_journal_is_gone_and_the_port_still_serves_http() -> None:
    async def scenario(ends: Ends) -> None:
        link = ends.link()
        link.send(open_message() + encode(DROP, 1))
        await ends.received.get()
        assert len(ends.store) == 0
        reader, writer = await asyncio.open_connection(ends.address.host, ends.address.port)
        for part in (b"G", b"ET / HTTP/1.1\r\nhost: x\r\n\r\n"):
            writer.write(part)
            await writer.drain()
        assert b"200 OK" in await reader.readline()
        writer.close()
        link.close()

    run_scenario(scenario)


@pytest.mark.parametrize(("key", "at"), [(cluster_key(b"another key"), NOW), (KEY, NOW - 3600)])
def test_a_wrong_key_and_a_replayed_handshake_are_refused(key: ClusterKey, at: float) -> None:
    async def scenario(ends: Ends) -> None:
        ends.link(key, at).send(open_message())
        assert await ends.why is LinkLossReason.TURNED_AWAY, "a refused handshake is no evidence of a lost node"
        assert len(ends.store) == 0

    run_scenario(scenario)


@pytest.mark.parametrize("skew_s", [60.0, -45.0, 900.0, -86_400.0])
def test_a_replica_with_another_clock_gets_a_handshake_in_its_own_time(skew_s: float) -> None:
    async def scenario(ends: Ends) -> None:
        clocks = PeerClocks()
        links = TcpReplicaLinks(signer(KEY, clocks), lambda: NOW - skew_s, LAG_S, "127.0.0.1")
        for number in range(2):  # the second one needs no refusal any more
            link = links.connect(ends.address, ends)
            link.send(open_message(), number)
            assert await ends.received.get() == number
            assert abs((clocks.ahead_s(str(ends.address)) or 0.0) - skew_s) < 1
            link.close()
        assert len(ends.store) == 1
        assert not ends.why.done()

    run_scenario(scenario)


def test_a_replica_that_only_sends_its_time_is_lost_after_the_second_time() -> None:
    async def scenario(ends: Ends) -> None:
        connections = 0

        async def door(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal connections
            connections += 1
            stamp = (await reader.readline()).decode().strip().removeprefix(PREFACE.decode())
            read = read_stamp(stamp)
            assert read is not None
            line = sign_clock(KEY, "d1", NOW + 3600 * connections, read.nonce)
            writer.write(CLOCK_PREFACE + line.encode() + b"\n")
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(door, "127.0.0.1", 0)
        address = Address("127.0.0.1", server.sockets[0].getsockname()[1])
        ends.link(address=address).send(open_message())
        assert await ends.why is LinkLossReason.TURNED_AWAY
        assert connections == 2
        server.close()

    run_scenario(scenario)


def test_no_journal_is_sent_to_a_node_that_shares_no_key_or_has_not_proved_that_it_has_it() -> None:
    async def scenario(ends: Ends) -> None:
        received, is_over = bytearray(), asyncio.Event()

        async def door(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            received.extend(await reader.readline())
            writer.write(PREFACE + b"nonce " + b"0" * 64 + b"\n")
            with contextlib.suppress(ConnectionError):
                received.extend(await reader.read())
            writer.close()
            is_over.set()

        server = await asyncio.start_server(door, "127.0.0.1", 0)
        address = Address("127.0.0.1", server.sockets[0].getsockname()[1])
        ends.link(address=address).send(open_message())
        assert await ends.why is LinkLossReason.BROKEN
        await is_over.wait()
        assert received.count(b"\n") == 1, "the handshake alone"
        ends.why = asyncio.get_running_loop().create_future()
        links = TcpReplicaLinks(signer(Refusal.UNKNOWN_NODE), lambda: NOW, LAG_S, "127.0.0.1")
        links.connect(ends.address, ends).send(open_message())
        assert await ends.why is LinkLossReason.TURNED_AWAY
        assert not ends.journals.connections
        server.close()

    run_scenario(scenario)


@pytest.mark.parametrize("rest", [b"x" * (MAX_PREFACE_BYTES + 1), b"nonsense\n"])
def test_a_preface_is_bounded_and_checked(rest: bytes) -> None:
    async def scenario(ends: Ends) -> None:
        reader, writer = await asyncio.open_connection(ends.address.host, ends.address.port)
        writer.write(PREFACE + rest)
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b"", "an invalid preface gets no answer"
        assert not ends.journals.connections
        writer.close()

    run_scenario(scenario)


def test_a_replica_that_does_not_answer_is_overdue_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.unit.runtime.replication.test_server.LAG_S", 0.05)

    async def scenario(ends: Ends) -> None:
        ended = asyncio.Event()

        async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(ConnectionError):
                await reader.read()
            writer.close()
            ended.set()

        server = await asyncio.start_server(silent, "127.0.0.1", 0)
        link = ends.link(address=Address("127.0.0.1", server.sockets[0].getsockname()[1]))
        link.send(open_message(), "opened")
        assert await ends.received.get() == "opened is overdue"
        link.close()
        await ended.wait()
        server.close()

    run_scenario(scenario)


def test_a_link_whose_peer_does_not_read_is_lost_at_its_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replication_client, "MAX_HELD_BYTES", 1000)

    async def scenario(ends: Ends) -> None:
        ends.link().send(b"x" * 1001)  # before the connection is there: it is held
        assert await ends.why is LinkLossReason.TOO_SLOW

    run_scenario(scenario)


def test_a_replica_that_accepts_and_sends_nothing_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replication_client, "HANDSHAKE_TIMEOUT_S", 0.05)

    async def scenario(ends: Ends) -> None:
        with contextlib.closing(bind("127.0.0.1", 0, "a silent replica")) as listener:
            ends.link(address=Address("127.0.0.1", listener.getsockname()[1])).send(open_message())
            assert await ends.why is LinkLossReason.SILENT

    run_scenario(scenario)


def test_unverified_connections_end_after_a_timeout_and_beyond_a_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server, "MAX_UNVERIFIED", 2)

    async def scenario(ends: Ends) -> None:
        strangers = []
        for _ in range(3):
            reader, writer = await asyncio.open_connection(ends.address.host, ends.address.port)
            writer.write(PREFACE + b"v1 ")
            strangers.append((reader, writer))
            await ends.until(partial(has_strangers, ends, min(len(strangers), 2)))
        assert await ended(strangers[0][0]), "the oldest gave way"
        assert len(ends.journals.unverified) == len(ends.journals.connections) == 2
        link = ends.link()
        link.send(open_message(), "opened")
        assert await ends.received.get() == "opened", "a verified peer does not wait"
        monkeypatch.setattr(server, "HANDSHAKE_TIMEOUT_S", 0.05)
        reader, writer = await asyncio.open_connection(ends.address.host, ends.address.port)
        writer.write(PREFACE + b"v1 ")
        strangers.append((reader, writer))
        assert await ended(reader), "its time was up"
        link.send(encode(APPEND, 1, 1, b"one\n"), "one")
        assert await ends.received.get() == "one", "a verified peer has no handshake timeout"
        link.close()
        for _, writer in strangers:
            writer.close()

    run_scenario(scenario)


def has_strangers(ends: Ends, count: int) -> bool:
    return len(ends.journals.unverified) == count


async def ended(reader: asyncio.StreamReader) -> bool:
    with contextlib.suppress(ConnectionError):
        return await reader.read() == b""
    return True


def test_an_unreadable_message_costs_only_its_own_stream() -> None:
    async def scenario(ends: Ends) -> None:
        link = ends.link()
        bad = [
            encode(OPEN, 2, 0, b"no lines at all"),
            encode(OPEN, 3, 0, b"[]\no\n"),
            encode(OPEN, 4, 0, b'{"stream": "t"}\no\n'),
            encode(OPEN, 5, 7, orjson.dumps({"stream": "t", "epoch": [1, "i"]}) + b"\no\none\n"),
            encode(OPEN, 6, 0, b'{"stream": "t", "epoch": [1e400, "i"]}\no\n'),
            encode(OPEN, 7, 0, orjson.dumps({"stream": "t" * 999, "epoch": [1, "i"]}) + b"\no\n"),
            encode(9, 8),
            encode(APPEND, 1, 0, b"zero\n"),
            encode(APPEND, 1, 1, b"half a line"),
        ]
        link.send(open_message() + b"".join(bad) + encode(APPEND, 1, 1, b"one\n"), "done")
        received = [await ends.received.get() for _ in range(len(bad) + 1)]
        assert received == [*((handle, RefusalReason.UNREADABLE) for handle in (2, 3, 4, 5, 6, 7, 8, 1, 1)), "done"]
        taken = ends.store.take_over("s", "i-b", NOW)
        assert taken is not None
        assert taken.lines == b"one\n"
        assert len(ends.store) == 1
        link.close()

    run_scenario(scenario)


def test_a_connection_drops_its_entries_for_expired_journals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_CLEANUP_AT", 8)

    async def scenario(ends: Ends) -> None:
        link = ends.link()
        for number in range(100):
            link.send(encode(OPEN, number, 0, orjson.dumps({"stream": f"s{number}", "epoch": [1, "i"]}) + b"\no\n"))
            assert await ends.received.get() is None
            ends.store.expire(NOW + 2 * RETENTION_S)
        (connection,) = ends.journals.connections
        assert len(connection._streams) <= 8
        link.close()

    run_scenario(scenario)


def test_a_replica_that_does_not_listen_is_lost_as_refused() -> None:
    async def scenario(ends: Ends) -> None:
        ends.link(address=Address("127.0.0.1", free_port())).send(open_message())
        assert await ends.why is LinkLossReason.REFUSED

    run_scenario(scenario)


def test_epochs_are_ordered_by_number_and_then_by_owner() -> None:
    assert Epoch(1, "b") < Epoch(2, "a") < Epoch(2, "b")
