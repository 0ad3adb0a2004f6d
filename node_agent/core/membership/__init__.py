"""Which nodes are in the fleet. `Membership` is the machine; other packages import nothing else from here."""

from node_agent.core.membership.change_reason import Cause, ChangeReason
from node_agent.core.membership.config import GossipConfig
from node_agent.core.membership.events import (
    Effect,
    Event,
    KeyUsageReceived,
    Leaving,
    LocalKeyUsageSet,
    LocalLoadSet,
    LocalRefusalAdded,
    LocalStateSet,
    MemberChanged,
    NodesDiscovered,
    PeerRequestFailed,
    Received,
    Refused,
    Send,
    SendSync,
    SyncReplied,
    SyncReply,
    SyncRequested,
    Tick,
)
from node_agent.core.membership.machine import Membership
from node_agent.core.membership.member_table import MAX_NODES, Member, View

__all__ = [
    "MAX_NODES",
    "Cause",
    "ChangeReason",
    "Effect",
    "Event",
    "GossipConfig",
    "KeyUsageReceived",
    "Leaving",
    "LocalKeyUsageSet",
    "LocalLoadSet",
    "LocalRefusalAdded",
    "LocalStateSet",
    "Member",
    "MemberChanged",
    "Membership",
    "NodesDiscovered",
    "PeerRequestFailed",
    "Received",
    "Refused",
    "Send",
    "SendSync",
    "SyncReplied",
    "SyncReply",
    "SyncRequested",
    "Tick",
    "View",
]
