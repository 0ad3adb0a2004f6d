"""Requests that crash engines, on one node: counted, refused, and broadcast to the other nodes.

The decisions are `core/failure/crash_suspects`'s. While nothing is suspected or refused, which is nearly always, no
request body is read for it.
"""

from __future__ import annotations

import logging

from node_agent.contract.errors import RequestRejected
from node_agent.core.failure.crash_suspects import RETENTION_S, SuspectStatus, SuspectTable
from node_agent.core.failure.loss import EngineDeath, Loss, LossReason
from node_agent.core.membership import LocalRefusalAdded
from node_agent.runtime.common.metrics import Metrics
from node_agent.runtime.node.gossip import Gossip

SUSPECT_HEADER = "x-synkti-suspect"
"""On a request to an engine: another engine died before it had answered this request."""

KILLS_ENGINES = "request_kills_engines"
_MESSAGE = (
    "Several engines ended while they worked on this request, before any had answered it, so no node sends it to"
    f" another one for {RETENTION_S / 60:.0f} minutes. Change the request; the same one will be refused again."
)
_log = logging.getLogger(__name__)


class CrashSuspects:
    """The suspects of one node. gossip: broadcasts refusals of this node, and delivers those of others."""

    def __init__(self, gossip: Gossip, metrics: Metrics) -> None:
        self._gossip = gossip
        self._metrics = metrics
        self._cases = SuspectTable()
        gossip.on_refusal = self._on_peer_refusal
        metrics.fatal_known.set_function(self._cases.__len__)

    def __len__(self) -> int:
        return len(self._cases)

    def is_suspect(self, content: bytes | None) -> bool:
        """Return whether engines have died under a request. content: its digest; None is never suspected."""
        return self._status(content) is SuspectStatus.SUSPECT

    def raise_if_refused(self, content: bytes | None) -> None:
        """Raise RequestRejected (422), and count it, for a request that is refused. content: as for `is_suspect`."""
        if self._status(content) is SuspectStatus.REFUSED:
            self._metrics.fatal_refused.inc()
            raise RequestRejected(422, KILLS_ENGINES, _MESSAGE)

    def _status(self, content: bytes | None) -> SuspectStatus:
        if content is None:
            return SuspectStatus.CLEAR
        return self._cases.status(content, self._gossip.monotonic())

    def on_loss(self, content: bytes | None, instance_id: str, loss: Loss) -> None:
        """Record that an engine died before it had answered a request.

        Any other loss changes nothing, and neither does an engine that was ended from outside.

        Args:
            content: the request's digest; None where it has none.
            instance_id: the engine's node.
            loss: as that node reports it.
        """
        if content is None or not isinstance(loss, EngineDeath) or loss.reason is LossReason.ENGINE_KILLED:
            return
        self._metrics.engine_deaths.inc()
        name = f"{instance_id}/{loss.engine_number}"
        _log.warning("the engine of %s died under a request (%s) that it had not answered", instance_id, content.hex())
        now = self._gossip.monotonic()
        if self._cases.record_death(content, name, now, alone=loss.alone, crashed=loss.crashed):
            _log.warning("request %s is refused: engines ended before they had answered it", content.hex())
            self._gossip.handle(LocalRefusalAdded(now, content, RETENTION_S))

    def on_answer(self, content: bytes | None) -> None:
        """Record that an engine began to answer a request."""
        if content is not None:
            self._cases.record_answer(content)

    def _on_peer_refusal(self, content: bytes, left_s: float) -> None:
        """Add a refusal of another node."""
        _log.warning("request %s is refused, as a peer reported", content.hex())
        self._cases.record_refusal(content, self._gossip.monotonic() + left_s)
