"""Watch this node's engine while it is ready: poll often, probe it, and detect when it is stuck.

`core/engine/liveness` makes all judgements. Where the engine is stuck, its requests are lost at once, so that every
stream continues elsewhere before the supervisor has ended the process. Where it works and others overtook one stream,
only that stream is lost.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import orjson

from node_agent.core.common.address import Address
from node_agent.core.engine.liveness import STUCK_S, EngineLiveness, EngineState, Evidence, Judgement
from node_agent.core.failure.loss import LossReason
from node_agent.ports import EngineSteps, ExchangeLost, Http
from node_agent.runtime.engine.active_requests import EngineCalls
from node_agent.runtime.engine.engine_call import EngineCall
from node_agent.runtime.engine.load_monitor import LoadMonitor
from node_agent.runtime.node.context import NodeContext

POLL_INTERVAL_S = 0.25
_PROBE_TIMEOUT_S = 600.0
"""A probe of a busy engine waits as long as any request; the judgement is bounded, not the probe."""

_MAX_ANSWER_BYTES = 64 * 1024
_MAX_DOUBLINGS = 3
_log = logging.getLogger(__name__)


class EngineWatchdog:
    """Watches a ready engine.

    engine: where vLLM listens.
    steps: of its core, where the plug-in counts them.
    is_suspended: whether a process of the engine is stopped by a signal.
    stuck_s: how long an engine may do nothing. After one that got stuck before its first token for a client, the next
    gets twice as long: it may compile something at the first request that needs it, and would never finish.
    """

    def __init__(
        self,
        node: NodeContext,
        calls: EngineCalls,
        load: LoadMonitor,
        client: Http,
        engine: Address,
        steps: EngineSteps,
        is_suspended: Callable[[], bool],
        stuck_s: float = STUCK_S,
    ) -> None:
        self._node = node
        self._calls = calls
        self._load = load
        self._client = client
        self._engine = engine
        self._steps = steps
        self._is_suspended = is_suspended
        self._stuck_s = stuck_s
        self._polled_at = 0.0
        self._polls_with_tokens = 0  # looks that found new tokens
        self._stuck_in_a_row = 0  # engines in a row that were stuck before their first token for a client
        self._clock = asyncio.get_running_loop().time
        self._body = orjson.dumps({"model": node.model, "prompt": "probe", "max_tokens": 1, "temperature": 0})

    async def until_stuck(self, first_answer_s: float) -> str:
        """Watch a ready engine until it is stuck; all its requests are lost then.

        first_answer_s: how long its last answer took.

        Returns:
            The reason, for the log.
        """
        stuck_s = self._stuck_s * 2 ** min(self._stuck_in_a_row, _MAX_DOUBLINGS)
        machine = EngineLiveness(self._clock(), stuck_s, first_answer_s)
        tokens_before = self._calls.tokens()
        probe: asyncio.Task[None] | None = None
        was = EngineState.WORKING
        try:
            while True:
                silent = self._calls.silent_since(self._clock() - self._node.min_silence_s / 2)
                judgement = machine.evaluate(self._evidence(machine, silent))
                if judgement.state is not was:
                    self._log_state(judgement)
                    was = judgement.state
                if judgement.state is EngineState.STUCK:
                    break
                self._judge_streams(machine, silent)
                if judgement.should_probe:
                    machine.probe_sent(self._clock())
                    probe = asyncio.create_task(self._probe(machine))
                await asyncio.sleep(POLL_INTERVAL_S)
        finally:
            self._steps.forget()
            if probe is not None:
                probe.cancel()
        self._stuck_in_a_row = 0 if self._calls.tokens() > tokens_before else self._stuck_in_a_row + 1
        is_suspended = self._is_suspended()  # from outside: no request is suspected of it
        self._calls.abort_all(LossReason.ENGINE_KILLED if is_suspended else LossReason.ENGINE_STUCK)
        return f"it is stuck: {judgement.reason}{'; a process of it is stopped by a signal' if is_suspended else ''}"

    def _log_state(self, judgement: Judgement) -> None:
        self._node.metrics.engine_states.labels(judgement.state.value).inc()
        level = logging.INFO if judgement.state is EngineState.WORKING else logging.WARNING
        _log.log(level, "the engine is %s: %s", judgement.state.value, judgement.reason)

    def _evidence(self, machine: EngineLiveness, silent: list[EngineCall]) -> Evidence:
        """Return the evidence of one poll. With a thousand streams this runs four times a second.

        silent: requests that were silent for half the inter-token timeout.
        """
        now = self._clock()
        has_new_tokens = self._calls.has_token_since(self._polled_at)
        self._polled_at = now
        self._polls_with_tokens += has_new_tokens
        return Evidence(
            at=now,
            in_flight=len(self._calls),
            tokens=self._polls_with_tokens,
            pace_s=0.0 if has_new_tokens else self._calls.min_time_per_token_s(),
            metrics=self._load.metrics,
            metrics_at=self._load.answered_at,
            steps=self._steps.read(),
            needs_proof=any(machine.needs_proof(*self._silence_of(call)) for call in silent),
        )

    def _silence_of(self, call: EngineCall) -> tuple[float, float, float]:
        """Return since when a request is silent, its timeout, and its timeout after a preemption."""
        return call.silent_from, call.timeout_s(self._node.min_silence_s), call.first_token_timeout_s

    def _judge_streams(self, machine: EngineLiveness, silent: list[EngineCall]) -> None:
        for call in silent:
            call.is_overtaken = machine.is_overtaken(*self._silence_of(call))
            if call.is_overtaken and call.is_own:
                call.abort(LossReason.SILENCE)

    async def _probe(self, machine: EngineLiveness) -> None:
        failed = await self._request_token()
        machine.probe_ended(self._clock(), failed)
        self._node.metrics.engine_probes.labels("failed" if failed else "answered").inc()

    async def _request_token(self) -> str:
        """Request one token; return why it was not answered, "" where it was."""
        headers = {"content-type": "application/json"}
        try:
            exchange = await self._client.open(
                self._engine,
                "POST",
                "/v1/completions",
                headers=headers,
                body=self._body,
                read_timeout_s=_PROBE_TIMEOUT_S,
            )
            try:
                await exchange.read_all(_MAX_ANSWER_BYTES)
                return "" if exchange.status == 200 else f"status-{exchange.status}"
            finally:
                exchange.close()
        except ExchangeLost as lost:
            return str(lost.loss)
