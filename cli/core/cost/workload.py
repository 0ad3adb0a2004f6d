"""Describe what an estimate assumes: the load, and what a deployment's settings make of it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from stacks.settings import FleetSettings

HOURS = 730.0
"""Of a month."""

SECONDS = HOURS * 3_600
DAYS = HOURS / 24
GB = 1e9

STREAM_BYTES = 250
"""One token as a client receives it, an event of a chat; a test compares it with an engine's."""

JOURNAL_BYTES = 30
"""One token in a journal: its record, and its share of the frames that carry records to replicas."""

PROMPT_BYTES = 5
"""One token of a prompt, as text in JSON."""

REPLICAS = 2
"""Peers that store a copy of each journal."""

STREAM_TOKENS_PER_S = 30
"""Of one stream, to estimate how many are open at a time."""


class Clients(Enum):
    """Where clients are."""

    INTERNET = "internet"
    VPC = "vpc"


@dataclass(frozen=True)
class Workload:
    """The load of a fleet, on the average of a month."""

    tokens_per_s: float = 1_000.0
    """Generated over all nodes, day and night."""

    answer_tokens: float = 250.0
    prompt_tokens: float = 1_000.0
    model_gb: float = 16.0
    interruptions_per_day: float = 1.0
    """Of the whole fleet; each replaces a node."""

    spot_share: float = 0.4
    """The spot price as a share of the on-demand one, of a type whose spot price is not known. An assumption."""

    clients: Clients | None = None
    """None: on the internet, where they can reach the fleet from there."""

    nat_gateways: int = 1
    """Of an existing VPC, where the nodes have no public addresses and no endpoints."""

    @property
    def requests_per_s(self) -> float:
        """The requests that generate so many tokens."""
        return self.tokens_per_s / self.answer_tokens

    @property
    def open_streams(self) -> float:
        """The streams that are open at a time."""
        return self.tokens_per_s / STREAM_TOKENS_PER_S

    @property
    def stream_gb(self) -> float:
        """What clients receive in a month."""
        return self.tokens_per_s * SECONDS * STREAM_BYTES / GB

    @property
    def journal_gb(self) -> float:
        """What one replica stores in a month: records of tokens, and requests."""
        return self.tokens_per_s * SECONDS * JOURNAL_BYTES / GB + self.prompt_gb

    @property
    def prompt_gb(self) -> float:
        """What clients send in a month."""
        return self.requests_per_s * SECONDS * self.prompt_tokens * PROMPT_BYTES / GB


@dataclass(frozen=True)
class Scenario:
    """A deployment under a load. nodes: on the average; on_demand: how many of them are not spot."""

    settings: FleetSettings
    load: Workload
    nodes: float
    on_demand: float
    dearest: bool = False
    """Take the dearest of the instance types instead of the mean of all."""

    @property
    def zones(self) -> int:
        """Zones in which there are nodes: at most one for each node and for each subnet."""
        return max(1, min(self.subnets, int(self.nodes)))

    @property
    def subnets(self) -> int:
        """Subnets of the nodes, each in a zone of its own; each has an address of a load balancer and of an endpoint.

        Those of an existing VPC, or as many as a new one would have where `synkti bootstrap` has not found them yet.
        """
        return len(self.settings.subnet_ids) or self.settings.zones

    @property
    def share_between_zones(self) -> float:
        """The share of traffic between two nodes, chosen alike, that crosses zones."""
        return (self.zones - 1) / self.zones

    @property
    def boots(self) -> float:
        """Instances that start in a month: each node once, for an update, and one for each interruption."""
        return self.nodes + self.load.interruptions_per_day * DAYS if self.nodes else 0.0

    @property
    def clients(self) -> Clients:
        """Where clients are: on the internet, unless neither nodes nor a load balancer have a public address."""
        if self.load.clients is not None:
            return self.load.clients
        settings = self.settings
        public = settings.load_balancer == "public" or (settings.load_balancer == "none" and settings.public_addresses)
        return Clients.INTERNET if public else Clients.VPC

    @property
    def uses_nat(self) -> bool:
        """True where nodes reach AWS's services through an existing VPC's NAT gateway."""
        return not (self.settings.public_addresses or self.settings.interface_endpoints)
