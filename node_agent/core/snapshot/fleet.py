"""Describe the nodes of a fleet for people who watch it, as one node sees them.

Rules kept here:

* a node that EC2 does not vouch for is counted, not shown: its texts are not trusted;
* a dead node is shown for SHOWN_DEAD_S, so that its loss is seen; one that left is not shown;
* a figure that is not known is null, never a guess.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from node_agent.core.membership.member_table import Member
from node_agent.core.node.status import Liveness, Load, NodeStatus

SHOWN_DEAD_S = 120.0


def node_row(status: NodeStatus, load: Load, liveness: Liveness, since: float) -> dict[str, Any]:
    """Describe one node.

    Args:
        status: as the node published it.
        load: of its engine, the newest that is known.
        liveness: in the view of the node that makes the snapshot.
        since: unix seconds of the last change of its state or liveness.

    Returns:
        A value for JSON.
    """
    pool = status.pool
    return {
        "id": status.instance_id,
        "zone": pool.zone,
        "type": pool.instance_type,
        "state": status.state.value,
        "liveness": liveness.value,
        "model": status.model,
        "address": status.client_address,
        "running": load.running,
        "waiting": load.waiting,
        "kv_use": round(load.kv_use, 3),
        "token_ms": round(load.time_per_token_s * 1000, 1),
        "since": round(since, 1),
        "deadline": status.deadline or None,
    }


def peer_rows(members: Iterable[Member], changed_at: Mapping[str, float], now: float) -> list[dict[str, Any]]:
    """Describe the peers that are shown.

    Args:
        members: all entries of the table.
        changed_at: unix seconds of each peer's last change, by instance id.
        now: unix seconds.

    Returns:
        A row for each, in the table's order.
    """
    rows = []
    for member in members:
        status, liveness = member.status, member.liveness
        since = changed_at.get(status.instance_id, now)
        if not member.is_vouched or not (liveness.is_present or _is_newly_dead(liveness, since, now)):
            continue
        rows.append(node_row(status, member.load, liveness, since))
    return rows


def _is_newly_dead(liveness: Liveness, since: float, now: float) -> bool:
    return liveness is Liveness.DEAD and now - since < SHOWN_DEAD_S
