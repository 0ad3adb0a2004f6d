"""Pass an engine's bytes on to the client: through the stream's machine and its journal, without a task switch.

The engine's connection calls `on_data` about once per token. What is generated is delivered after its record; an engine
that is silent for too long, or from which no more is needed, is aborted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from node_agent.core.continuation.silence import SilenceDetector
from node_agent.core.failure.loss import Loss, LossReason
from node_agent.core.streams.state import ENGINE_DONE, StreamState
from node_agent.core.streams.stream_machine import StreamMachine
from node_agent.runtime.client_api.current_engine import CurrentEngine
from node_agent.runtime.client_api.interruption_report import InterruptionReport
from node_agent.runtime.engine.keepalive import KEEPALIVES, OVERTAKEN
from node_agent.runtime.replication.replicated_stream import ReplicatedStream

_END_TIMEOUT_S = 0.2
"""Between an engine's [DONE] and the end of its response."""


class EngineRelay:
    """Relays the engines of one stream.

    Args:
        machine: turns an engine's bytes into the client's.
        journal: delivers these after their records.
        engine: the one that answers now.
        silence: decides when an engine is silent for too long.
        report: of the interruptions; the first event after one is delivered behind its comment.
        on_answer_begun: called with the number of tokens now and then while an engine answers, first soon after it has
            begun.
    """

    def __init__(
        self,
        machine: StreamMachine,
        journal: ReplicatedStream,
        engine: CurrentEngine,
        silence: SilenceDetector,
        report: InterruptionReport,
        on_answer_begun: Callable[[int], None],
    ) -> None:
        self._machine = machine
        self._engine = engine
        self._silence = silence
        self._report = report
        self._on_answer_begun = on_answer_begun
        self._write = journal.write
        self._clock = asyncio.get_running_loop().time

    def on_data(self, data: bytes) -> None:
        """Process bytes of the current engine. Its connection calls this, once per token."""
        machine, silence = self._machine, self._silence
        out = machine.feed(data)
        if not out and data in KEEPALIVES:
            self._on_keepalive(data)
            return
        silence.silent_since = 0.0
        if out:
            seq = machine.writer.seq
            if self._report.pending is None:
                self._write(seq, out)
            else:
                self._deliver(out)
            if seq >= silence.next_look:
                self._adapt_timeout()
        if machine.state is not StreamState.STREAMING and machine.state in ENGINE_DONE:
            self._finish_engine()

    def on_engine_end(self, loss: Loss) -> None:
        """End the current engine's part, and deliver what the end of its answer adds. loss: why it ended."""
        if out := self._machine.on_engine_end(loss):
            self._deliver(out)

    def _deliver(self, out: bytes) -> None:
        """Hand events to the journal, which delivers them after their records."""
        if self._engine.route is not None:
            has_begun = bool(self._machine.seq)
            name = self._engine.route.node.instance_id
            out = self._report.on_continued(name, self._clock(), has_begun=has_begun) + out
        self._write(self._machine.writer.seq, out)

    def _on_keepalive(self, keepalive: bytes) -> None:
        """Handle a keep-alive of the engine's node. OVERTAKEN: the engine served others since the last token."""
        if self._silence.on_keepalive(self._clock(), is_overtaken=keepalive == OVERTAKEN):
            self._engine.abort(LossReason.SILENCE)

    def _adapt_timeout(self) -> None:
        """Adapt the inter-token timeout to the engine's pace."""
        response = self._engine.response
        if response is None:
            return
        self._on_answer_begun(self._machine.tokens)
        timeout_s = self._silence.observe(self._machine.writer.seq, response.last_read_at)
        if timeout_s is None:
            return  # nothing is judged by a pace before there is one
        if (allowed_s := self._machine.token_timeout_s(timeout_s)) is not None:
            self._silence.timeout_s = allowed_s
            response.set_read_timeout(allowed_s)

    def _finish_engine(self) -> None:
        """End the engine's response: no more is needed. After a complete answer its connection can be reused."""
        if self._machine.state is not StreamState.COMPLETE:
            self._engine.abort(LossReason.CLOSED)
        elif self._engine.response is not None:
            self._engine.response.end_within(_END_TIMEOUT_S)
