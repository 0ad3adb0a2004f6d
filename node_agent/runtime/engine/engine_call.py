"""One request at this node's engine: how much of its answer arrived, at what pace, and since when it is silent.

Requests have no timer of their own: the engine's watchdog judges whether a silent one is lost
(`runtime/engine/watchdog`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from node_agent.core.continuation.timeouts import first_token_timeout_s, inter_token_timeout_s
from node_agent.core.engine.read_pace import ReadPace
from node_agent.ports import Response
from node_agent.runtime.engine.response_proxy import ResponseProxy

_BYTES_PER_TOKEN = 4
"""Of a prompt that was not counted: about what tokenizers make of English."""

_OPENING_READS = 2
"""Of a stream, which the API server may send before the core has done anything for it."""


class EngineCall(ResponseProxy):
    """One request at the local engine.

    key: unique at this node, and increasing.
    on_closed: called each time that the request is closed.
    max_tokens: of the answer, None where unknown.
    body_bytes: of the request.
    request_id: its stream's id.
    durable: whether its client wants its stream replicated.
    own: whether this node is its entry.
    silence_timeout_s: how long it may be silent although the engine serves others; set by an entry on this node.
    is_overtaken: whether it was silent for longer than that.
    handed_off: whether it was handed back to its entry.
    """

    def __init__(
        self,
        exchange: Response,
        key: int,
        on_closed: Callable[[EngineCall], None],
        *,
        max_tokens: int | None,
        body_bytes: int,
        request_id: str,
        durable: bool,
        own: bool,
        silence_timeout_s: float,
    ) -> None:
        super().__init__(exchange)
        self.key = key
        self.max_tokens = max_tokens
        self.body_bytes = body_bytes
        self.request_id = request_id
        self.durable = durable
        self.is_own = own
        self.silence_timeout_s = silence_timeout_s
        self.is_overtaken = False
        self.handed_off = False
        self._on_closed = on_closed
        self._pace = ReadPace()
        self._clock = asyncio.get_running_loop().time

    @property
    def remaining_tokens(self) -> int | None:
        """An upper bound, as a rule: tokens that arrive together count as one, so it errs on the safe side."""
        return None if self.max_tokens is None else max(0, self.max_tokens - self.reads)

    @property
    def context_tokens(self) -> int:
        """About what another engine would have to prefill before it continues."""
        return self.body_bytes // _BYTES_PER_TOKEN + self.reads

    @property
    def time_per_token_s(self) -> float | None:
        """The time per token so far, without the pauses of a client that does not read; None after too few tokens."""
        return self._pace.time_per_read_s(self.reads, self.first_read_at, self.last_read_at)

    @property
    def silent_from(self) -> float:
        """Since when it is silent, in loop time; the silence of a pause is not the engine's. 0: it was never sent."""
        return self._pace.silent_from(self.last_read_at)

    @property
    def is_paused(self) -> bool:
        """Whether reading is paused; a paused request is not judged by its silence."""
        return self._pace.is_paused

    @property
    def tokens(self) -> int:
        """Reads that prove that the engine's core worked for this request: at most one per token."""
        tokens = self.reads - _OPENING_READS
        return tokens if tokens > 0 and self.status == 200 and self.is_event_stream else 0

    @property
    def first_token_timeout_s(self) -> float:
        """How long its first token may take, or the next one after a preemption."""
        return first_token_timeout_s(self.body_bytes + self.reads * _BYTES_PER_TOKEN)

    def timeout_s(self, min_timeout_s: float) -> float:
        """Return how long it may be silent.

        A request of another node is judged there; here it is only reported as overtaken.

        min_timeout_s: the least inter-token timeout.
        """
        if self.is_own:
            return self.silence_timeout_s
        time_per_token_s = self.time_per_token_s
        return (
            inter_token_timeout_s(time_per_token_s, min_timeout_s)
            if time_per_token_s is not None
            else self.first_token_timeout_s
        )

    def set_read_timeout(self, seconds: float) -> None:
        """Set how many seconds it may be silent although the engine serves others; the watchdog enforces it."""
        self.silence_timeout_s = seconds

    def pause(self, paused: bool) -> None:
        """Stop reading from the engine, or continue."""
        if paused:
            self._pace.pause(self._clock())
        else:
            self._pace.resume(self._clock(), self.first_read_at)
        self.exchange.pause(paused)

    def close(self) -> None:
        """End the request: its place among the active ones, its exchange; may be called again."""
        self._on_closed(self)
        self.exchange.close()
