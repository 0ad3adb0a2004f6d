"""Deregister a node that ends: its last step is written, its tags are removed, its Auto Scaling group is informed.

Each part has a time of its own, because the instance ends soon and AWS may not respond; a failure of one does not stop
the next, and is made good by what deletes the instance (EC2 its tags, the group's hook its timeout).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress

from node_agent.contract.errors import TransientError
from node_agent.ports import Instances, ScalingGroup
from node_agent.runtime.common.supervised_task import Unexpected
from node_agent.runtime.node.state_publisher import StatePublisher

FLUSH_S = 1.5
UNTAG_S = 2.0
"""An EC2 that does not respond must not delay the report to the group that this node has drained."""

COMPLETE_S = 2.0
_log = logging.getLogger(__name__)


async def deregister(
    instance_id: str,
    publisher: StatePublisher,
    instances: Instances,
    group: ScalingGroup | None,
    unexpected: Unexpected,
    on_untagged: Callable[[], None],
) -> None:
    """Deregister a node from AWS, as far as AWS responds in time.

    publisher: has the node's last step queued, and runs.
    group: None where nothing waits for the drain.
    unexpected: receives what a part raises that is no failure of AWS's.
    on_untagged: called once the tags are removed, before the last flush.
    """
    await unexpected.attempt("flush", _flush(publisher))
    await unexpected.attempt("untag", _untag(instance_id, publisher, instances, on_untagged))
    if group is not None:
        await unexpected.attempt("complete-termination", _complete(instance_id, group))


async def _flush(publisher: StatePublisher) -> None:
    if not await publisher.flush(FLUSH_S):
        _log.warning("the last step of the timeline could not be written in time")


async def _untag(
    instance_id: str, publisher: StatePublisher, instances: Instances, on_untagged: Callable[[], None]
) -> None:
    with suppress(TransientError, TimeoutError):
        async with asyncio.timeout(UNTAG_S):
            await instances.untag(instance_id)
        on_untagged()
        await publisher.flush(FLUSH_S)


async def _complete(instance_id: str, group: ScalingGroup) -> None:
    with suppress(TransientError, TimeoutError):
        async with asyncio.timeout(COMPLETE_S):
            await group.complete_termination(instance_id)
