"""Membership's input events and its effects.

They are tuples, because a node gets a dozen of them every second, and a simulated fleet millions.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from node_agent.contract.states import NodeState
from node_agent.core.failure.loss import LossReason
from node_agent.core.membership.change_reason import ChangeReason
from node_agent.core.node.status import Liveness, Load, NodeStatus, TaggedNode


class Tick(NamedTuple):
    """Time passed. Every `at` is in seconds, of one clock of the owner's that mostly goes forward."""

    at: float


class Received(NamedTuple):
    """A datagram arrived."""

    at: float
    data: bytes


class NodesDiscovered(NamedTuple):
    """A listing from EC2: the running nodes of the cluster. is_complete: every one of them."""

    at: float
    nodes: Iterable[TaggedNode]
    is_complete: bool = True


class PeerRequestFailed(NamedTuple):
    """A request to a peer failed. reason: REFUSED says that no process listens there, no other is as certain."""

    at: float
    instance_id: str
    reason: LossReason


class LocalStateSet(NamedTuple):
    """This node has a new state, its engine supports other continuation methods, or it ends at another time.

    deadline: unix seconds, 0 for none.
    """

    at: float
    state: NodeState
    continuation_methods: tuple[str, ...] = ()
    deadline: int = 0


class LocalLoadSet(NamedTuple):
    """The load of this node's engine changed."""

    at: float
    load: Load


class SyncRequested(NamedTuple):
    """A peer's sync request arrived over a stream; the effects hold the SyncReply."""

    at: float
    body: bytes


class SyncReplied(NamedTuple):
    """The response to a SendSync arrived."""

    at: float
    body: bytes


class LocalRefusalAdded(NamedTuple):
    """This node refuses requests of this content for so many seconds, and all nodes should."""

    at: float
    content: bytes
    seconds: float


class LocalKeyUsageSet(NamedTuple):
    """This node reports what keys used of their limits. packed: as `wire.key_usage` writes it."""

    at: float
    packed: bytes


class Leaving(NamedTuple):
    """This node ends. The owner keeps running for a moment, so that the update spreads."""

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
    | LocalKeyUsageSet
    | Leaving
)


class Send(NamedTuple):
    """Send a datagram to host:port."""

    to: str
    data: bytes


class SendSync(NamedTuple):
    """Send a sync request over a stream to a peer API at host:port; report a SyncReplied or a PeerRequestFailed."""

    instance_id: str
    to: str
    body: bytes


class SyncReply(NamedTuple):
    """Answer a SyncRequested. body: None where the request is rejected."""

    body: bytes | None


class MemberChanged(NamedTuple):
    """This node's entry of a peer has changed. before: None where the peer is new."""

    status: NodeStatus
    before: Liveness | None
    after: Liveness
    reason: ChangeReason


class Refused(NamedTuple):
    """The fleet refuses requests of this content for so many more seconds; reported once for each."""

    content: bytes
    left_s: float


class KeyUsageReceived(NamedTuple):
    """A peer reported what keys used there. boot_id: the peer's; packed: for `wire.key_usage`."""

    boot_id: bytes
    packed: bytes


Effect = Send | SendSync | SyncReply | MemberChanged | Refused | KeyUsageReceived
