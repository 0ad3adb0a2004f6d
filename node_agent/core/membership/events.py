"""What happens to membership, and what it wants done.

Tuples, because a node gets a dozen of them every second, and a simulated fleet millions.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from node_agent.contract.states import NodeState
from node_agent.core.node.status import Liveness, Load, NodeStatus, TaggedNode

REFUSED = "refused"
"""Why a request failed: nobody listens there. Every other failure may be the request's own."""


class Tick(NamedTuple):
    """Time passed. Every `at` is in seconds, of one clock of the owner's that mostly goes forward."""

    at: float


class Received(NamedTuple):
    """A datagram came in."""

    at: float
    data: bytes


class NodesDiscovered(NamedTuple):
    """A whole look at EC2: every running node of the cluster."""

    at: float
    nodes: Iterable[TaggedNode]


class PeerRequestFailed(NamedTuple):
    """A request to a peer failed. why: REFUSED where nobody listens there, anything else where it only did not work."""

    at: float
    instance_id: str
    why: str


class LocalStateSet(NamedTuple):
    """This node has a new state, or can go on with answers in other ways."""

    at: float
    state: NodeState
    ways: tuple[str, ...] = ()


class LocalLoadSet(NamedTuple):
    """What this node's engine is doing now."""

    at: float
    load: Load


class SyncRequested(NamedTuple):
    """A peer's question came in over a stream; the effects hold the Answer."""

    at: float
    body: bytes


class SyncReplied(NamedTuple):
    """The answer to an Ask came back."""

    at: float
    body: bytes


class LocalRefusalAdded(NamedTuple):
    """This node refuses requests of this content, for so many seconds, and so should all."""

    at: float
    content: bytes
    seconds: float


class Leaving(NamedTuple):
    """This node ends. The owner goes on for a moment, so that the word gets around."""

    at: float


Event = (
    Tick
    | Received
    | NodesDiscovered
    | PeerRequestFailed
    | LocalStateSet
    | LocalLoadSet
    | SyncRequested
    | SyncReplied
    | LocalRefusalAdded
    | Leaving
)


class Send(NamedTuple):
    """A datagram for host:port."""

    to: str
    data: bytes


class SendSync(NamedTuple):
    """A question over a stream to a peer's door at host:port; its answer is an Answered, its failure a Failed."""

    instance_id: str
    to: str
    body: bytes


class SyncReply(NamedTuple):
    """To a Questioned; None where it is refused."""

    body: bytes | None


class MemberChanged(NamedTuple):
    """What this node holds of a peer has changed. before: None where it is new; why: for the log."""

    status: NodeStatus
    before: Liveness | None
    after: Liveness
    why: str


class Refused(NamedTuple):
    """The fleet refuses requests of this content, for so many more seconds; once for each."""

    content: bytes
    left_s: float


Effect = Send | SendSync | SyncReply | MemberChanged | Refused
