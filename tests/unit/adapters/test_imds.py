"""What IMDS answers in another form than it should: a notice is a notice, and what is no identity is not there yet."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest

from node_agent.adapters.imds import UNREADABLE, Imds
from node_agent.contract.aws_events import InterruptionNotice
from node_agent.contract.errors import MetadataUnavailable
from tests.borders.test_adapters import Answer


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
