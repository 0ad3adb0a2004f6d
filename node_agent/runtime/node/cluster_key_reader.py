"""Read the cluster's keys again now and then, so that they rotate without a restart.

What cannot be read or used changes nothing: the node keeps the keys that it has. A change is stored for the next agent
of this machine, and published in this node's tags.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from node_agent.contract.errors import TransientError
from node_agent.core.common.cluster_keys import ClusterKeys, parse_cluster_keys
from node_agent.ports import Secrets
from node_agent.runtime.common.metrics import Metrics

_READ_TIMEOUT_S = 30.0
_log = logging.getLogger(__name__)


class ClusterKeyReader:
    """Reads the keys.

    Args:
        secrets: None where the keys are fixed.
        name: of the secret.
        keys: the node's keys, replaced here.
        store: stores a usable document for the next agent.
        every_s: between two reads, jittered by half to both sides.
        chance: uniform in [0, 1).
    """

    def __init__(
        self,
        secrets: Secrets | None,
        name: str,
        keys: ClusterKeys,
        store: Callable[[bytes], None],
        metrics: Metrics,
        every_s: float,
        chance: Callable[[], float],
    ) -> None:
        self._secrets = secrets
        self._name = name
        self._keys = keys
        self._store = store
        self._metrics = metrics
        self._every_s = every_s
        self._chance = chance

    async def run(self) -> None:
        """Read until cancelled."""
        while True:
            await asyncio.sleep(self._every_s * (0.5 + self._chance()))
            if self._secrets is not None:
                await self._read(self._secrets)

    async def _read(self, secrets: Secrets) -> None:
        try:
            async with asyncio.timeout(_READ_TIMEOUT_S):
                document = await secrets.read(self._name)
            keys = parse_cluster_keys(document)
        except (TransientError, TimeoutError) as error:
            self._metrics.cluster_key_reads.labels("unavailable").inc()
            _log.warning("%s; the node keeps the cluster keys that it has", str(error) or "Secrets Manager is slow")
            return
        except ValueError as error:
            self._metrics.cluster_key_reads.labels("unusable").inc()
            _log.error("%s; the node keeps the cluster keys that it has; set the secret right", error)
            return
        self._metrics.cluster_key_reads.labels("read").inc()
        if self._keys.replace(keys):
            self._store(document)
            _log.warning("the cluster's keys have changed: signs with %s, accepts %s", keys.key_ids[0], keys.key_ids)
