"""Write which key did what to the audit log: one line for each answered request, a second later at most.

No request waits for the log. What it cannot hold is left out and counted.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass

from node_agent.contract.errors import StoreUnavailable
from node_agent.core.access.audit_line import AuditEntry
from node_agent.core.access.caller import Caller
from node_agent.core.access.token_estimate import Count, read_usage
from node_agent.core.openai import routes
from node_agent.ports import AuditLog, ServerRequest
from node_agent.runtime.node.context import NodeContext

FLUSH_S = 1.0
MAX_PENDING_BYTES = 1024 * 1024
"""Of lines that are not written yet: about 4,000."""

_NOBODY = Caller(key_id="", name="", scopes=frozenset())
"""The caller of a request whose key was refused, or not read yet."""

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class RequestRecord:
    """What is known of a request while it is served. began_at: monotonic seconds; the rest as in AuditEntry."""

    began_at: float
    caller: Caller = _NOBODY
    model: str | None = None
    stream: str = ""
    tokens_in: int | None = None
    tokens_out: int | None = None
    first_output_at: float | None = None
    """Of a stream, in monotonic seconds."""

    usage: Count | None = None
    """The engine's count of an answer in one piece."""

    def on_answer(self, body: bytes) -> None:
        """Take the tokens from an answer in one piece."""
        self.usage = read_usage(body)
        if self.usage is not None:
            self.tokens_in, self.tokens_out = self.usage


class Audit:
    """Collects lines, and writes them. log: None where the audit log is off."""

    def __init__(self, node: NodeContext, log: AuditLog | None) -> None:
        self._node = node
        self._audit_log = log
        self._now = node.gossip.monotonic
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._dropped = 0

    def begin(self) -> RequestRecord:
        """Return the record of a request that begins now."""
        return RequestRecord(self._now())

    def end(self, record: RequestRecord, request: ServerRequest, path: str, status: int) -> None:
        """Add the line of an answered request. Requests for a node's health have none."""
        if self._audit_log is None or path in routes.OPEN_ROUTES:
            return
        line = AuditEntry(
            at=self._node.wall_clock(),
            node=self._node.instance_id,
            caller=record.caller,
            address=request.address,
            method=request.method,
            route=routes.audit_label(path),
            status=status,
            duration_s=self._now() - record.began_at,
            model=record.model,
            stream=record.stream,
            tokens_in=record.tokens_in,
            tokens_out=record.tokens_out,
        ).to_line()
        if self._pending_bytes + len(line) > MAX_PENDING_BYTES:
            self._dropped += 1
            return
        self._pending.append(line)
        self._pending_bytes += len(line)

    async def run(self) -> None:
        """Write once a second, until cancelled."""
        if self._audit_log is None:
            return
        while True:
            await asyncio.sleep(FLUSH_S)
            await self.flush()

    async def flush(self) -> None:
        """Write what is pending; what cannot be written is left out, and counted."""
        lines, dropped = self._pending, self._dropped
        self._pending, self._pending_bytes, self._dropped = [], 0, 0
        count = self._node.metrics.audit_lines
        if self._audit_log is not None and lines:
            try:
                await self._audit_log.write(b"".join(lines))
                count.labels("written").inc(len(lines))
            except StoreUnavailable as error:
                dropped += len(lines)
                _log.warning("%s; %d lines are left out", error, len(lines))
        if dropped:
            count.labels("dropped").inc(dropped)
