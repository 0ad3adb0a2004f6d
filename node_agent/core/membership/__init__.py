"""Who is in the fleet. `Membership` is the machine; the modules here are its parts, and nobody else's."""

from node_agent.core.membership.config import Tempo
from node_agent.core.membership.events import (
    REFUSED,
    Announced,
    Answer,
    Answered,
    Ask,
    Changed,
    Effect,
    Event,
    Failed,
    Leaving,
    Measured,
    Questioned,
    Received,
    Refuse,
    Refused,
    Send,
    Tagged,
    Tick,
)
from node_agent.core.membership.machine import Membership
from node_agent.core.membership.member_table import MAX_NODES, Member, View

__all__ = [
    "MAX_NODES",
    "REFUSED",
    "Announced",
    "Answer",
    "Answered",
    "Ask",
    "Changed",
    "Effect",
    "Event",
    "Failed",
    "Leaving",
    "Measured",
    "Member",
    "Membership",
    "Questioned",
    "Received",
    "Refuse",
    "Refused",
    "Send",
    "Tagged",
    "Tempo",
    "Tick",
    "View",
]
