"""The AWS account and region of a command: standard AWS credentials, and clients that use them."""

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

_ENDPOINT_REGIONS = {"ce": "us-east-1", "pricing": "us-east-1"}
"""Services that answer for all regions, in a few of them only."""

_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


@dataclass(frozen=True)
class Identity:
    """The principal of the credentials. account: twelve digits."""

    account: str
    arn: str


class Account:
    """An account and region. profile, region: None for those of AWS's own configuration. Raises BotoCoreError."""

    def __init__(self, profile: str | None = None, region: str | None = None) -> None:
        # AWS's tools read AWS_REGION, but boto3 reads only AWS_DEFAULT_REGION.
        chosen = region or os.environ.get("AWS_REGION") or None
        self._session = boto3.session.Session(profile_name=profile or None, region_name=chosen)
        self.profile = profile or None
        if not self._session.region_name:
            raise NoRegionError
        self.region: str = self._session.region_name
        self.client = cache(self._client)

    @cached_property
    def identity(self) -> Identity:
        """The credentials' principal, for which AWS is queried once. Raises BotoCoreError, ClientError."""
        answer = self.client("sts").get_caller_identity()
        return Identity(answer["Account"], answer["Arn"])

    @property
    def description(self) -> str:
        """Account and region for messages. Raises as `identity`."""
        return f"account {self.identity.account}, region {self.region}"

    def instance_arn(self, instance_id: str) -> str:
        """Return the ARN of an EC2 instance of this account and region. Raises as `identity`."""
        partition = self._session.get_partition_for_region(self.region)
        return f"arn:{partition}:ec2:{self.region}:{self.identity.account}:instance/{instance_id}"

    def local_regions(self) -> frozenset[str]:
        """Return the regions in the installed boto3's data, without a request."""
        partitions = self._session.get_available_partitions()
        return frozenset(
            region for each in partitions for region in self._session.get_available_regions("ec2", partition_name=each)
        )

    @property
    def is_embedded(self) -> bool:
        """True where AWS is emulated on this machine (AWS_ENDPOINT_URL), for tests and trials."""
        return is_embedded(os.environ.get("AWS_ENDPOINT_URL", ""))

    def require_account(self, account: str) -> None:
        """Raise BadConfiguration where the credentials belong to another account ("": any is accepted)."""
        if account and account != self.identity.account:
            raise BadConfiguration(
                f"synkti.toml is for account {account}, and these credentials are for {self.identity.account}",
                "choose other credentials (--profile), or change account in synkti.toml",
            )

    def environ(self) -> dict[str, str]:
        """Return the environment for a subprocess that works in the same account and region."""
        chosen = {"AWS_REGION": self.region, "AWS_DEFAULT_REGION": self.region}
        return {**os.environ, **chosen, **({"AWS_PROFILE": self.profile} if self.profile else {})}

    def _client(self, service: str, connections: int = 10) -> Any:
        config = Config(
            connect_timeout=5,
            read_timeout=60,
            retries={"mode": "standard", "max_attempts": 4},
            max_pool_connections=connections,
        )
        region = _ENDPOINT_REGIONS.get(service)
        return self._session.client(service, region_name=region, config=config)  # type: ignore[call-overload]


def is_embedded(endpoint: str) -> bool:
    """Return True where an AWS_ENDPOINT_URL points to this machine."""
    return urlsplit(endpoint).hostname in _LOOPBACK
