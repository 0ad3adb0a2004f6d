"""Compare one request with those that crash engines: before it is sent, after an engine died, once it is answered."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from node_agent.core.failure.loss import Loss
from node_agent.core.openai.request_digest import request_digest
from node_agent.runtime.node.crash_suspects import CrashSuspects


class RequestSuspicion:
    """One request, as its node's crash suspects know it.

    suspects: the node's; while there are none, which is nearly always, the request's digest is not computed.
    body: as it was received or parsed.
    """

    def __init__(self, suspects: CrashSuspects, body: Mapping[str, Any] | bytes) -> None:
        self._suspects = suspects
        self._body = body

    @cached_property
    def _digest(self) -> bytes | None:
        return request_digest(self._body)

    def is_suspect(self) -> bool:
        """Return whether engines have died under the request."""
        return bool(self._suspects) and self._suspects.is_suspect(self._digest)

    def raise_if_refused(self) -> None:
        """Raise RequestRejected where the request is refused because it ends engines."""
        if self._suspects:
            self._suspects.raise_if_refused(self._digest)

    def on_death(self, instance_id: str, loss: Loss) -> None:
        """Record that an engine died under the request.

        Args:
            instance_id: the engine's node.
            loss: as that node reports it.
        """
        self._suspects.on_loss(self._digest, instance_id, loss)

    def on_answer(self) -> None:
        """Record that an engine answered: the request ends no engines."""
        if self._suspects:
            self._suspects.on_answer(self._digest)
