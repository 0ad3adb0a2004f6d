"""What nodes say of themselves to each other, and what EC2 says of them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any, NamedTuple

from node_agent.contract.states import NodeState

CONTINUATION_METHODS = ("resume", "forced")
"""How an engine may be able to go on, beside a rewind (`core/continuation/method`). The order is the wire's: new ones
go last."""


@dataclass(frozen=True)
class Pool:
    """What EC2 reclaims together: nodes of one zone and type."""

    zone: str
    instance_type: str


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """What a node says of itself, its load apart, which changes with every request.

    peer, front: host:port of its doors; model: the one it serves while its state takes requests, the same for its whole
    life; incarnation: its agent's start in unix milliseconds, one more for every change and every refutation; version:
    of its software; ways: those of WAYS in which its engine can go on with an answer.
    """

    instance_id: str
    peer_address: str
    client_address: str
    state: NodeState
    pool: Pool
    model: str
    incarnation: int
    version: str = ""
    continuation_methods: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """For people and programs that look at the fleet: `model` is "" while it serves none."""
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
    """What a node's engine is doing. A tuple, because dozens arrive every second.

    running, waiting: requests; kv_use: of the KV cache, 0 to 1; time_per_token_s: of one stream, 0 where unmeasured;
    prefill_tokens_s: prompt tokens a second that the engine takes in, 0 where unmeasured.
    """

    running: int
    waiting: int
    kv_use: float
    time_per_token_s: float
    prefill_tokens_s: float

    @property
    def in_flight(self) -> int:
        return self.running + self.waiting


def load_to_json(load: Load) -> dict[str, Any]:
    """For people and programs that look at the fleet."""
    return {"in_flight": load.in_flight, **load._asdict()}


def load_to_header(load: Load) -> bytes:
    """In one line, for the answers of a peer door."""
    return b"%d %d %.3f %.6f %.1f" % load


def load_from_header(line: bytes) -> Load:
    """Raises ValueError where it is none."""
    running, waiting, *rest = line.split(b" ")
    kv_use, time_per_token_s, prefill_tokens_s = map(float, rest)
    return Load(int(running), int(waiting), kv_use, time_per_token_s, prefill_tokens_s)


IDLE = Load(0, 0, 0.0, 0.0, 0.0)


class Liveness(Enum):
    """What a node holds of another one, in SWIM's words."""

    ALIVE = "alive"
    SUSPECT = "suspect"
    DEAD = "dead"
    LEFT = "left"

    @property
    def is_present(self) -> bool:
        """Whether it still counts as a member: a suspect is innocent until its time is up."""
        return self is Liveness.ALIVE or self is Liveness.SUSPECT


@dataclass(frozen=True)
class TaggedNode:
    """A running instance that carries the cluster's tags. peer: host:port of its peer door."""

    instance_id: str
    peer_address: str
    state: NodeState | None
