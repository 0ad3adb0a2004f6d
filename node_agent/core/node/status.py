"""Define the status that nodes publish, their load, their liveness, and their EC2 tags."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any, NamedTuple

from node_agent.contract.states import NodeState

CONTINUATION_METHODS = ("resume", "forced")
"""The methods by which an engine may continue a stream, besides reprompting (`core/continuation/method`). The order is
the wire's: new ones are appended."""


@dataclass(frozen=True)
class Pool:
    """A spot pool, which EC2 reclaims together: nodes of one zone and instance type."""

    zone: str
    instance_type: str


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """The status that a node publishes. Its load is separate, since it changes with every request."""

    instance_id: str
    peer_address: str
    """host:port of its peer API."""

    client_address: str
    """host:port of its client API."""

    state: NodeState
    pool: Pool
    model: str
    """The model that it serves while its state takes requests; constant while its agent runs."""

    incarnation: int
    """Its agent's start in unix milliseconds, incremented by every change and every refutation."""

    version: str = ""
    """Of its software."""

    continuation_methods: tuple[str, ...] = ()
    """Those of CONTINUATION_METHODS that its engine supports."""

    public_key: str = ""
    """Its own, as it publishes it; `vouched_nodes` compares it with EC2's."""

    deadline: int = 0
    """Unix seconds, by its own clock, at which a draining node ends; 0 for none. Nothing is decided by a peer's."""

    def to_json(self) -> dict[str, Any]:
        """Convert to JSON, for people and programs that observe the fleet: `model` is "" while it serves none."""
        return {
            "instance_id": self.instance_id,
            "peer": self.peer_address,
            "front": self.client_address,
            "state": self.state.value,
            "zone": self.pool.zone,
            "instance_type": self.pool.instance_type,
            "model": self.model if self.state.takes_requests else "",
            "incarnation": self.incarnation,
            "version": self.version,
            "ways": list(self.continuation_methods),
        }


class Load(NamedTuple):
    """The load of a node's engine. A tuple, because dozens arrive every second.

    running, waiting: requests; kv_use: of the KV cache, 0 to 1; time_per_token_s: of one stream, 0 where unmeasured;
    prefill_tokens_s: prompt tokens a second that the engine computes, 0 where unmeasured.
    """

    running: int
    waiting: int
    kv_use: float
    time_per_token_s: float
    prefill_tokens_s: float

    @property
    def in_flight(self) -> int:
        """All requests at the engine, running and waiting."""
        return self.running + self.waiting


def load_to_json(load: Load) -> dict[str, Any]:
    """Convert to JSON, for people and programs that observe the fleet."""
    return {"in_flight": load.in_flight, **load._asdict()}


def load_to_header(load: Load) -> bytes:
    """Encode in one line, for the answers of the peer API."""
    return b"%d %d %.3f %.6f %.1f" % load


def load_from_header(line: bytes) -> Load:
    """Decode `load_to_header`. Raises ValueError."""
    running, waiting, *rest = line.split(b" ")
    kv_use, time_per_token_s, prefill_tokens_s = map(float, rest)
    return Load(int(running), int(waiting), kv_use, time_per_token_s, prefill_tokens_s)


IDLE = Load(0, 0, 0.0, 0.0, 0.0)


class Liveness(Enum):
    """A node's state in another node's view, in SWIM's terms."""

    ALIVE = "alive"
    SUSPECT = "suspect"
    DEAD = "dead"
    LEFT = "left"

    @property
    def is_present(self) -> bool:
        """True while it counts as a member: a suspect does until its time is up."""
        return self is Liveness.ALIVE or self is Liveness.SUSPECT


@dataclass(frozen=True)
class TaggedNode:
    """A running instance that carries the cluster's tags. peer_address: host:port of its peer API."""

    instance_id: str
    peer_address: str
    state: NodeState | None
    public_key: str | None = None
    cluster_keys: tuple[str, ...] = ()
    """The ids of the cluster keys that it accepts, the one first with which it signs."""

    is_shut_out: bool = False
    """Whether an operator has excluded it from the fleet."""
