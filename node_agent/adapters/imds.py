"""IMDSv2: who this instance is, and whether EC2, or its Auto Scaling group, wants it back.

The token is fetched once for six hours; on 401 it is dropped and fetched anew, because an instance that was resumed,
or an emulated service that was restarted, no longer knows the old one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

from node_agent.contract.errors import MetadataUnavailable
from node_agent.contract.notices import InterruptionNotice, parse_instance_action, parse_rebalance
from node_agent.core.addresses import Address
from node_agent.ports import ExchangeLost, Http, Identity

_TOKEN_LIFE_S = 21_600
_SILENCE_S = 2.0
_MAX_BYTES = 64 * 1024
_ROOT = "/latest/meta-data"


class Imds:
    """The Metadata port. endpoint: http://host[:port], as AWS_EC2_METADATA_SERVICE_ENDPOINT has it."""

    def __init__(self, endpoint: str, client: Http) -> None:
        parts = urlsplit(endpoint)
        self._address = Address(parts.hostname or "", parts.port or 80)
        self._client = client
        self._token: str | None = None
        self._date: float | None = None  # IMDS's own time at its last answer, unix seconds

    async def identity(self) -> Identity:
        return Identity(
            instance_id=await self._text("instance-id"),
            zone=await self._text("placement/availability-zone"),
            region=await self._text("placement/region"),
            instance_type=await self._text("instance-type"),
            private_address=await self._text("local-ipv4"),
        )

    async def interruption(self) -> InterruptionNotice | None:
        body = await self._get("spot/instance-action")
        try:
            return replace(parse_instance_action(body), as_of=self._date) if body is not None else None
        except ValueError as error:
            raise MetadataUnavailable(f"spot/instance-action cannot be read: {error}") from error

    async def rebalance(self) -> float | None:
        body = await self._get("events/recommendations/rebalance")
        try:
            return parse_rebalance(body) if body is not None else None
        except ValueError as error:
            raise MetadataUnavailable(f"the rebalance recommendation cannot be read: {error}") from error

    async def told_to_go(self) -> bool:
        return await self._get("autoscaling/target-lifecycle-state") == "Terminated"

    async def _text(self, path: str) -> str:
        body = await self._get(path)
        if not body:
            raise MetadataUnavailable(f"IMDS has no {path}")
        return body

    async def _get(self, path: str) -> str | None:
        for _ in range(2):  # the second time with a fresh token
            if self._token is None:
                headers = {"x-aws-ec2-metadata-token-ttl-seconds": str(_TOKEN_LIFE_S)}
                status, self._token = await self._ask("PUT", "/latest/api/token", headers)
                if status != 200:
                    self._token = None
                    raise MetadataUnavailable(f"IMDS gave no token: status {status}")
            status, body = await self._ask("GET", f"{_ROOT}/{path}", {"x-aws-ec2-metadata-token": self._token})
            if status == 401:
                self._token = None
                continue
            if status == 404:
                return None
            if status == 200:
                return body
            raise MetadataUnavailable(f"IMDS answered {status} for {path}")
        raise MetadataUnavailable("IMDS refuses its own fresh token")

    async def _ask(self, method: str, target: str, headers: dict[str, str]) -> tuple[int, str]:
        try:
            exchange = await self._client.open(self._address, method, target, headers=headers, silence_s=_SILENCE_S)
            try:
                self._date = _date(exchange.headers)
                return exchange.status, (await exchange.read_all(_MAX_BYTES)).decode()
            finally:
                exchange.close()
        except ExchangeLost as lost:
            raise MetadataUnavailable(f"IMDS at {self._address} does not answer: {lost.why}") from lost


def _date(headers: Mapping[bytes, bytes]) -> float | None:
    """The time in an answer's Date header, unix seconds; None where there is none that can be read."""
    try:
        return parsedate_to_datetime(headers[b"date"].decode("ascii")).timestamp()
    except (KeyError, ValueError, OverflowError):
        return None
