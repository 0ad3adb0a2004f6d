"""Send one stream's requests to engines, with the headers, the timeout and the turn that each of them needs."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from node_agent.contract.names import KV_HEADER
from node_agent.core.continuation.silence import SilenceDetector
from node_agent.core.node.status import NodeStatus
from node_agent.core.streams.state import StreamState
from node_agent.core.streams.stream_machine import StreamMachine
from node_agent.ports import Response
from node_agent.runtime.client_api.request_suspicion import RequestSuspicion
from node_agent.runtime.common.metrics import Metrics
from node_agent.runtime.engine.client import EngineClient
from node_agent.runtime.node.crash_suspects import SUSPECT_HEADER

_log = logging.getLogger(__name__)


class StreamRequests:
    """The requests of one stream.

    Args:
        engines: sends them.
        stream_id: the stream's id.
        machine: builds their bodies.
        headers: the client's, as far as engines receive them.
        suspicion: the request's.
        metrics: count the methods of continuation.
    """

    def __init__(
        self,
        engines: EngineClient,
        stream_id: str,
        machine: StreamMachine,
        headers: Mapping[str, str],
        suspicion: RequestSuspicion,
        metrics: Metrics,
    ) -> None:
        self.context_source = ""
        """The node whose engine had the context last, as KV_HEADER says it; "" for none."""

        self._engines = engines
        self._stream_id = stream_id
        self._machine = machine
        # The engine makes its own id of ours (chatcmpl-<stream>), so that one word finds a stream everywhere.
        self._headers = {**headers, "content-type": "application/json", "x-request-id": stream_id}
        self._suspicion = suspicion
        self._metrics = metrics

    async def send(self, node: NodeStatus, silence: SilenceDetector) -> Response:
        """Send the next request to a node's engine.

        Raises ContinuationImpossible where this engine cannot continue the answer, RequestRejected where engines have
        ended under the request.

        silence: begins anew with this engine.

        Returns:
            The response as it arrives. Always close it.
        """
        machine, max_tokens = self._machine, self._machine.generation.max_tokens
        # The same engine as before has the context itself.
        is_next_choice = machine.state is StreamState.AWAITING_NEXT_REQUEST
        context_source = "" if is_next_choice else self.context_source
        request = machine.request(node.continuation_methods)
        self._report_method()
        self._suspicion.raise_if_refused()
        is_suspect = self._suspicion.is_suspect()
        await self._engines.prefetch(node, self._stream_id, context_source)
        turn = await self._engines.acquire_turn(node) if is_suspect else None
        return self._engines.request(
            node,
            "POST",
            request.path,
            self._headers_for(context_source, is_suspect=is_suspect),
            request.body,
            max_tokens=None if max_tokens is None else max(1, max_tokens - machine.tokens),
            silence_timeout_s=silence.begin(machine.seq, len(request.body)),
            turn=turn,
        )

    def _report_method(self) -> None:
        """Count and log how the engine continues the answer, where it does."""
        if (chosen := self._machine.method_choice) is not None:
            self._metrics.continuation_methods.labels(chosen.method.value).inc()
            _log.info("stream %s: continues by %s: %s", self._stream_id, chosen.method.value, chosen.reason)

    def _headers_for(self, context_source: str, *, is_suspect: bool) -> dict[str, str]:
        more = {KV_HEADER: context_source} if context_source else {}
        if is_suspect:
            more[SUSPECT_HEADER] = "1"
        return {**self._headers, **more} if more else self._headers
