"""Test the IMDS adapter against its stand-in, and what IMDS answers in another form than it should.

A notice is a notice, and what is no identity is not there yet.
"""

from __future__ import annotations

import asyncio
import math
import os
import threading
from dataclasses import replace
from typing import Any

import pytest

from local.aws import free_port
from local.imds import ImdsServer, InstanceMetadata, url
from node_agent.adapters.http import HttpClient
from node_agent.adapters.imds import UNREADABLE, Imds
from node_agent.contract.aws_events import InterruptionNotice
from node_agent.contract.errors import MetadataUnavailable
from node_agent.core.common.address import Address
from node_agent.ports import Identity
from tests.borders.test_adapters import Answer
from tests.unit.adapters.http_client_stage import answering, run_scenario


class Fixed:
    """The Http port: bodies by the last word of the path; 404 for all others. token: the body of a token."""

    def __init__(self, token: bytes = b"token==", **bodies: bytes) -> None:
        self._token = token
        self._bodies = {name.replace("_", "-"): body for name, body in bodies.items()}

    async def open(self, address: object, method: str, target: str, **_: object) -> Any:
        if method == "PUT":
            return Answer(200, self._token)
        body = self._bodies.get(target.rpartition("/")[2])
        return Answer(404, b"") if body is None else Answer(200, body)


def imds(http: Fixed) -> Imds:
    client: Any = http
    return Imds("http://169.254.169.254", client)


ODD = [b"", b"<html>", b'{"action":"stop"}', b"\xff\xfe{}", b"[]", b"null", b"[" * 60_000,
       b'{"action":1,"time":"2027-01-01T00:00:00Z"}', b'{"action":"stop","time":"soon"}']  # fmt: skip


@pytest.mark.parametrize("body", ODD, ids=repr)
def test_an_unreadable_notice_is_still_a_notice(body: bytes) -> None:
    notice = asyncio.run(imds(Fixed(instance_action=body)).interruption())
    assert notice == InterruptionNotice(math.inf, UNREADABLE)


@pytest.mark.parametrize("body", ODD, ids=repr)
def test_an_unreadable_recommendation_is_still_one(body: bytes) -> None:
    assert asyncio.run(imds(Fixed(rebalance=body)).rebalance()) == 0.0


def test_a_missing_path_is_absent() -> None:
    odd = imds(Fixed())
    assert asyncio.run(odd.interruption()) is None
    assert asyncio.run(odd.rebalance()) is None
    assert not asyncio.run(odd.termination_requested())


@pytest.mark.parametrize("token", [b"", b"{}", b"<html>", b"a\r\nb: c", b"\xff", b"t" * 2_000], ids=repr)
def test_an_invalid_token_is_an_unavailable_imds(token: bytes) -> None:
    """A proxy that answers everything with its page must not drain the fleet."""
    with pytest.raises(MetadataUnavailable, match="token"):
        asyncio.run(imds(Fixed(token, instance_action=b"<html>")).interruption())


GOOD = {"instance_id": b"i-1", "availability_zone": b"us-east-1a", "region": b"us-east-1", "instance_type": b"t",
        "local_ipv4": b"10.0.0.1"}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("instance_id", b"i-1\r\nx: y"), ("instance_id", b"\xff"), ("instance_id", b"i" * 65), ("region", b"../x"),
        ("region", b"us east"), ("local_ipv4", b"fe80::1"), ("local_ipv4", b"10.0.0.1:5"), ("local_ipv4", b"0.0.0.0"),
        ("instance_type", b""),
    ],
)  # fmt: skip
def test_an_incomplete_identity_counts_as_not_there_yet(name: str, body: bytes) -> None:
    assert asyncio.run(imds(Fixed(**GOOD)).identity()).instance_id == "i-1"
    with pytest.raises(MetadataUnavailable, match=name.replace("_", "-")):
        asyncio.run(imds(Fixed(**{**GOOD, name: body})).identity())


# the adapter and its HTTP client


def test_imds_is_read_with_a_token_that_is_renewed_when_it_expires() -> None:
    host = f"127.60.{os.getpid() % 250 + 1}.9"
    state = InstanceMetadata("i-1", "us-east-1a", "us-east-1", "g5.xlarge", host)
    states = [state]
    server = ImdsServer(host, lambda: states[-1])
    threading.Thread(target=server.serve_forever, daemon=True).start()

    async def story() -> None:
        client = HttpClient()
        imds = Imds(url(host), client)
        assert await imds.identity() == Identity("i-1", "us-east-1a", "us-east-1", "g5.xlarge", host)
        assert await imds.interruption() is None
        assert await imds.rebalance() is None
        assert not await imds.termination_requested()
        states.append(replace(state, deadline=2000.0, rebalance_at=1000.0, lifecycle="Terminated"))
        server.service.tokens.clear()  # as after a restart of the service: every token is refused
        assert await imds.interruption() == InterruptionNotice(2000.0, "terminate")
        assert await imds.rebalance() == 1000.0
        assert await imds.termination_requested()
        await client.close()

    try:
        asyncio.run(story())
    finally:
        server.shutdown()
        server.server_close()


def test_an_imds_that_does_not_answer_is_unavailable() -> None:
    imds = Imds(f"http://127.0.0.1:{free_port()}", HttpClient())
    with pytest.raises(MetadataUnavailable, match="refused"):
        asyncio.run(imds.identity())


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n", "no token"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}", "cannot be read"),
    ],
)
def test_an_imds_with_an_invalid_answer_is_unavailable(answer: bytes, message: str) -> None:
    async def story(client: HttpClient, address: Address) -> None:
        with pytest.raises(MetadataUnavailable, match=message):
            await Imds(f"http://{address}", client).interruption()

    run_scenario(answering(answer), story)
