"""Read IMDSv2: this instance's identity, and whether EC2, or its Auto Scaling group, reclaims it.

The token is fetched once for six hours; on 401 it is dropped and fetched anew, because an instance that was resumed, or
an emulated service that was restarted, no longer accepts the old one.

A body becomes a value, absent, or MetadataUnavailable. An interruption notice and a rebalance recommendation exist
where their paths answer 200, whatever the body is: only their time may be unreadable. A missed notice costs clients
more than an action on an unreadable one.
"""

from __future__ import annotations

import asyncio
import logging
import math
import re
from collections.abc import Mapping
from dataclasses import replace
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

from node_agent.contract.addresses import check_node_host
from node_agent.contract.aws_events import InterruptionNotice, parse_instance_action, parse_rebalance
from node_agent.contract.errors import MetadataUnavailable
from node_agent.core.common.address import Address
from node_agent.ports import ExchangeLost, Http, Identity

UNREADABLE = "unreadable"
"""The action of a notice whose body cannot be read."""

_TOKEN_LIFE_S = 21_600
_SILENCE_S = 2.0
_WITHIN_S = 4.0
"""For a whole response: a body that arrives byte by byte is no answer."""

_MAX_BYTES = 64 * 1024
_ROOT = "/latest/meta-data"
_WORD = re.compile(r"[!-~]{1,64}")
_TOKEN = re.compile(r"[A-Za-z0-9+/=_.~:-]{1,1024}")
"""It becomes a header's value. A server other than IMDS that answers everything with a page, or with {}, is detected by
this before its pages count as notices.
"""

_REGION = re.compile(r"[a-z]{2,8}(-[a-z]{2,16}){1,3}-[0-9]{1,2}")
_log = logging.getLogger(__name__)


class Imds:
    """The Metadata port. endpoint: http://host[:port], as AWS_EC2_METADATA_SERVICE_ENDPOINT has it.

    Raises ValueError where it is none; the settings were validated for that.
    """

    def __init__(self, endpoint: str, client: Http) -> None:
        parts = urlsplit(endpoint)
        self._address = Address(parts.hostname or "", parts.port or 80)
        self._client = client
        self._token: str | None = None
        self._date: float | None = None  # IMDS's own time at its last answer, unix seconds

    async def identity(self) -> Identity:
        """Return this instance's identity. Raises MetadataUnavailable, also where a part of it cannot be read."""
        return Identity(
            instance_id=await self._word("instance-id"),
            zone=await self._word("placement/availability-zone"),
            region=await self._word("placement/region", _REGION),
            instance_type=await self._word("instance-type"),
            private_address=await self._host("local-ipv4"),
        )

    async def interruption(self) -> InterruptionNotice | None:
        """Return the notice. An unreadable one has an infinite deadline: its reader applies EC2's usual time."""
        body = await self._get("spot/instance-action")
        if body is None:
            return None
        try:
            return replace(parse_instance_action(body.decode()), as_of=self._date)
        except ValueError as error:
            _log.warning("spot/instance-action cannot be read, and is a notice all the same: %s", error)
            return InterruptionNotice(math.inf, UNREADABLE)

    async def rebalance(self) -> float | None:
        """Return when the recommendation was given, 0.0 where that cannot be read."""
        body = await self._get("events/recommendations/rebalance")
        if body is None:
            return None
        try:
            return parse_rebalance(body.decode())
        except ValueError as error:
            _log.warning("the rebalance recommendation cannot be read, and counts all the same: %s", error)
            return 0.0

    async def termination_requested(self) -> bool:
        """Return whether the Auto Scaling group ends this instance. Raises MetadataUnavailable."""
        body = await self._get("autoscaling/target-lifecycle-state")
        return body is not None and body.strip() == b"Terminated"

    async def _word(self, path: str, form: re.Pattern[str] = _WORD) -> str:
        body = (await self._get(path) or b"").decode("ascii", errors="replace").strip()
        if not form.fullmatch(body):
            raise MetadataUnavailable(f"IMDS has no {path} that can be read: {body[:80]!r}")
        return body

    async def _host(self, path: str) -> str:
        host = await self._word(path)
        try:
            check_node_host(host)
        except ValueError as error:
            raise MetadataUnavailable(f"IMDS has no {path} that can be read: {error}") from error
        return host

    async def _get(self, path: str) -> bytes | None:
        for _ in range(2):  # the second time with a fresh token
            token = self._token or await self._fresh_token()
            self._token = token
            status, body = await self._request("GET", f"{_ROOT}/{path}", {"x-aws-ec2-metadata-token": token})
            if status == 401:
                if self._token == token:  # several paths are asked at once: another one may have a fresh one by now
                    self._token = None
                continue
            if status == 404:
                return None
            if status == 200:
                return body
            raise MetadataUnavailable(f"IMDS answered {status} for {path}")
        raise MetadataUnavailable("IMDS refuses its own fresh token")

    async def _fresh_token(self) -> str:
        headers = {"x-aws-ec2-metadata-token-ttl-seconds": str(_TOKEN_LIFE_S)}
        status, body = await self._request("PUT", "/latest/api/token", headers)
        if status != 200:
            raise MetadataUnavailable(f"IMDS gave no token: status {status}")
        token = body.decode("ascii", errors="replace").strip()
        if not _TOKEN.fullmatch(token):
            raise MetadataUnavailable("the token that IMDS gave cannot be read")
        return token

    async def _request(self, method: str, target: str, headers: dict[str, str]) -> tuple[int, bytes]:
        try:
            async with asyncio.timeout(_WITHIN_S):
                exchange = await self._client.open(
                    self._address, method, target, headers=headers, read_timeout_s=_SILENCE_S
                )
                try:
                    self._date = _date(exchange.headers)
                    return exchange.status, await exchange.read_all(_MAX_BYTES)
                finally:
                    exchange.close()
        except ExchangeLost as lost:
            raise MetadataUnavailable(f"IMDS at {self._address} does not answer: {lost.loss}") from lost
        except TimeoutError as error:
            raise MetadataUnavailable(f"IMDS at {self._address} takes longer than {_WITHIN_S:.0f} s") from error


def _date(headers: Mapping[bytes, bytes]) -> float | None:
    """Return the time of a response's Date header, unix seconds; None where it cannot be read."""
    try:
        return parsedate_to_datetime(headers[b"date"].decode("ascii")).timestamp()
    except (KeyError, ValueError, OverflowError, TypeError, IndexError):
        return None
