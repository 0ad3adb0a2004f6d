"""Report nodes of this cluster that have another cluster key: with them this node makes no fleet.

Without this, a node with a foreign key would only see that no other answers, and serve alone.
"""

from __future__ import annotations

import asyncio
import logging

from node_agent.core.common.cluster_keys import ClusterKeys
from node_agent.core.node.vouched_nodes import VouchedNodes
from node_agent.runtime.common.metrics import Metrics

EVERY_S = 5.0
_MAX_NAMED = 10
_log = logging.getLogger(__name__)


class ForeignKeyMonitor:
    """Compares the keys that nodes publish in their tags with this node's."""

    def __init__(self, vouched: VouchedNodes, keys: ClusterKeys, metrics: Metrics) -> None:
        self._vouched = vouched
        self._keys = keys
        self._metrics = metrics
        self._reported: list[str] = []

    async def run(self) -> None:
        """Check until cancelled."""
        while True:
            self.check()
            await asyncio.sleep(EVERY_S)

    def check(self) -> None:
        """Compare once; log a change."""
        found = self._vouched.foreign_nodes(self._keys.keys.key_ids)
        self._metrics.foreign_nodes.set(len(found))
        if found and found != self._reported:
            _log.error(
                "%d nodes of this cluster have another cluster key than this node's (%s), so they are another fleet:"
                " %s; synkti cluster-key status shows who has which key",
                len(found), " ".join(self._keys.keys.key_ids), ", ".join(found[:_MAX_NAMED]),
            )  # fmt: skip
        self._reported = found
