"""The account and region that a command works in: credentials as every AWS tool finds them, and clients for them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any
from urllib.parse import urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import NoRegionError

from cli.errors import BadConfiguration

_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


@dataclass(frozen=True)
class Identity:
    """Whose credentials these are. account: twelve digits."""

    account: str
    arn: str


class Account:
    """profile, region: what was asked for; None for what AWS's own configuration says. Raises BotoCoreError."""

    def __init__(self, profile: str | None = None, region: str | None = None) -> None:
        # Every AWS tool reads AWS_REGION, but this library only AWS_DEFAULT_REGION.
        chosen = region or os.environ.get("AWS_REGION") or None
        self._session = boto3.session.Session(profile_name=profile or None, region_name=chosen)
        self.profile = profile or None
        if not self._session.region_name:
            raise NoRegionError
        self.region: str = self._session.region_name
        self.client = cache(self._client)

    @cached_property
    def identity(self) -> Identity:
        """Asks AWS. Raises BotoCoreError, ClientError."""
        answer = self.client("sts").get_caller_identity()
        return Identity(answer["Account"], answer["Arn"])

    @property
    def where(self) -> str:
        """For a message: account and region."""
        return f"account {self.identity.account}, region {self.region}"

    def known_regions(self) -> frozenset[str]:
        """The regions that this machine's AWS library knows of; asks nobody."""
        partitions = self._session.get_available_partitions()
        return frozenset(
            region for each in partitions for region in self._session.get_available_regions("ec2", partition_name=each)
        )

    @property
    def embedded(self) -> bool:
        """Whether AWS is a program on this machine (AWS_ENDPOINT_URL), as for tests and trials."""
        return is_embedded(os.environ.get("AWS_ENDPOINT_URL", ""))

    def require(self, account: str) -> None:
        """Refuse to work in another account than synkti.toml says ("": any). Raises BadConfiguration."""
        if account and account != self.identity.account:
            raise BadConfiguration(
                f"synkti.toml is for account {account}, and these credentials are for {self.identity.account}",
                "choose other credentials (--profile), or change account in synkti.toml",
            )

    def environ(self) -> dict[str, str]:
        """For a program that is to work in the same account and region, on top of this one's own environment."""
        chosen = {"AWS_REGION": self.region, "AWS_DEFAULT_REGION": self.region}
        return {**os.environ, **chosen, **({"AWS_PROFILE": self.profile} if self.profile else {})}

    def _client(self, service: str, connections: int = 10) -> Any:
        config = Config(
            connect_timeout=5,
            read_timeout=60,
            retries={"mode": "standard", "max_attempts": 4},
            max_pool_connections=connections,
        )
        return self._session.client(service, config=config)  # type: ignore[call-overload]


def is_embedded(endpoint: str) -> bool:
    """Whether an AWS_ENDPOINT_URL leads to this machine."""
    return urlsplit(endpoint).hostname in _LOOPBACK
