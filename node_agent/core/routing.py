"""Which engine serves a request. First version: one rule after another, each with its reason.

* only nodes that are ready, serve the model, and were not tried for this request;
* at-risk nodes only where there is no other; after a loss, nodes outside the lost node's pool where there are any,
  because EC2 reclaims pools, not instances;
* among these the highest rendezvous hash of the prompt's prefix, so that all nodes choose alike without talking and
  a conversation meets its prefix cache again;
* unless it has far more in flight than the least loaded one: bounded loads.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from node_agent.contract.states import NodeState
from node_agent.core.fleet import NodeStatus, Pool

_SLACK_REQUESTS = 4
"""How many more requests than the mean a node may have in flight before its prefixes go elsewhere."""


@dataclass(frozen=True)
class Route:
    """The node chosen, and why."""

    node: NodeStatus
    reason: str


def choose(
    nodes: Sequence[NodeStatus],
    *,
    model: str | None,
    prefix: bytes,
    tried: Collection[str] = (),
    avoid: Pool | None = None,
) -> Route | None:
    """The route for a request, or None where no node can take it.

    nodes: those that may serve now, this one included where it may; model: None where any will do; tried: instance
    ids that lost this request already; avoid: the pool of the last loss.
    """
    able = [node for node in nodes if node.instance_id not in tried and (model is None or node.model == model)]
    if not able:
        return None
    safe = [node for node in able if node.state is NodeState.READY]
    calm = [node for node in (safe or able) if node.pool != avoid]
    candidates = calm or safe or able
    mean = sum(node.in_flight for node in candidates) / len(candidates)
    bound = 1.25 * mean + _SLACK_REQUESTS
    within = [node for node in candidates if node.in_flight <= bound]
    owner = max(candidates, key=lambda node: _weight(prefix, node))
    chosen = owner if owner in within else max(within, key=lambda node: _weight(prefix, node))
    return Route(chosen, _reason(chosen, owner, avoid, bool(safe)))


def _reason(chosen: NodeStatus, owner: NodeStatus, avoid: Pool | None, any_safe: bool) -> str:
    reason = "prefix" if chosen is owner else "prefix-owner-overloaded"
    if not any_safe:
        reason += ";only-at-risk"
    if avoid is not None:
        reason += ";other-pool" if chosen.pool != avoid else ";same-pool"
    return reason


def _weight(prefix: bytes, node: NodeStatus) -> bytes:
    return hashlib.blake2b(prefix + node.instance_id.encode(), digest_size=8).digest()
