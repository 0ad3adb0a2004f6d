"""Record what becomes of one stream's attempts at engines: at the node's breakers, in its metrics and in the log."""

from __future__ import annotations

import logging

from node_agent.core.failure.attempts import Attempts, EngineResponse
from node_agent.core.failure.verdict import Verdict
from node_agent.runtime.client_api.request_suspicion import RequestSuspicion
from node_agent.runtime.node.context import NodeContext

_log = logging.getLogger(__name__)


class StreamAttempts:
    """The attempts of one stream. path: of its route."""

    def __init__(self, node: NodeContext, path: str, stream_id: str, suspicion: RequestSuspicion) -> None:
        self.failed = Attempts(path)
        self.may_retry = True
        """True where another engine may be tried after the last failure."""

        self.first_output_at: float | None = None
        """When the first output of an engine arrived, in monotonic seconds."""

        self._node = node
        self._stream_id = stream_id
        self._suspicion = suspicion

    def on_failed(self, instance_id: str, verdict: Verdict, answer: EngineResponse | None, tokens: int) -> None:
        """Record that a node's engine did not answer, or not to the end.

        Args:
            instance_id: the node.
            verdict: whose fault it is.
            answer: the engine's error response, None where it sent none.
            tokens: how many the client has.
        """
        self._node.on_request_failed(instance_id, verdict)
        self.may_retry = self.failed.record_failure(instance_id, verdict, answer)
        self._node.metrics.losses.labels(verdict.code).inc()
        _log.info(
            "stream %s: lost %s: %s, after %d tokens: %s",
            self._stream_id, instance_id, verdict.code, tokens, verdict.reason,
        )  # fmt: skip

    def on_answer_begun(self, tokens: int) -> None:
        """Clear the request of suspicion once an engine answers.

        Nodes that could not answer it are at fault, and it ends no engines.

        tokens: how many the client has; 0 where they are not counted.
        """
        if self.first_output_at is None:
            self.first_output_at = self._node.gossip.monotonic()
        if self.failed.in_doubt:
            self._node.on_others_failed(self.failed.in_doubt)
            self.failed.in_doubt.clear()
        if tokens:
            self._suspicion.on_answer()
