"""Hold clients' keys to their limits: admit each request, and count what it uses.

`core/access/key_usage` decides. A request whose share of the remainder is not known yet waits here for a moment. Open
streams are counted once a second and at their ends, so that a token costs nothing.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from node_agent.contract.errors import LimitExceeded, RequestRejected
from node_agent.core.access.caller import NO_LIMITS, Caller, KeyLimits
from node_agent.core.access.key_usage import Admitted, Decision, Limit, Refused, Use, Wait
from node_agent.core.access.limit_headers import duration, limit_headers, refusal_message, zero_message
from node_agent.core.access.token_estimate import Count, Estimate
from node_agent.core.access.usage_share import hold_s
from node_agent.core.streams.stream_machine import StreamMachine
from node_agent.ports import ServerRequest
from node_agent.runtime.client_api.buffered_request import ClientGone
from node_agent.runtime.client_api.key_table import Key, KeyTable
from node_agent.runtime.common.metrics import Metrics
from node_agent.runtime.node.context import NodeContext

_POLL_S = 0.1


class KeyRequest:
    """One request of a caller. Close it when it is answered: its counts are then those of the answer.

    estimate: its tokens; None for a stream that its client resumes, and that began elsewhere.
    paid: the tokens that its key's turns in the queue have paid for it.
    """

    __slots__ = ("_limiter", "_machine", "estimate", "first_token", "is_over", "key", "key_id", "paid", "use")

    def __init__(self, limiter: KeyLimiter, key_id: str, estimate: Estimate | None) -> None:
        self._limiter = limiter
        self._machine: StreamMachine | None = None
        self.key_id = key_id
        self.estimate = estimate
        self.key: Key | None = None
        self.use: Use | None = None
        self.first_token = 0
        self.paid = 0
        self.is_over = False

    def watch(self, machine: StreamMachine) -> None:
        """Count the tokens of a stream from now on; those that it has already are left out."""
        self._machine = machine
        self.first_token = machine.tokens
        if self.use is not None:
            self.use.generated = machine.tokens

    def settle(self, at: float) -> None:
        """Count what was generated so far."""
        if self._machine is not None and self.use is not None and self.key is not None:
            self.key.usage.generated(at, self.use, self._machine.tokens)

    def close(self, status: int = 200, counted: Count | None = None) -> None:
        """End the request. status: that the client received; counted: the engine's count, None where unknown."""
        if self.is_over:
            return
        self.is_over = True
        machine, self._machine = self._machine, None
        if machine is not None:
            self._limiter.on_closed(self, machine.tokens, machine.prompt_tokens or None)
        elif counted is not None:
            self._limiter.on_closed(self, counted.answer, counted.prompt)
        elif status >= 400:
            self._limiter.on_closed(self, 0, 0)
        else:
            self._limiter.on_closed(self, self.estimate.answer if self.estimate is not None else 0, None)

    def undo(self) -> None:
        """Return what the request counted, because no engine took it."""
        if not self.is_over:
            self.is_over = True
            self._limiter.on_undone(self)


class Turns(Protocol):
    """Settles what keys pay for their requests with their turns in the queue."""

    def used(self, key: str, tokens: int, paid: int) -> None:
        """Record what a request used, and what its key has paid."""

    def give_back(self, key: str, paid: int) -> None:
        """Return what a key has paid for a request that no node has served."""


class KeyLimiter:
    """Admits requests by the limits of their callers' keys. turns: of the keys in the queue."""

    def __init__(self, node: NodeContext, turns: Turns) -> None:
        self._metrics: Metrics = node.metrics
        self._turns = turns
        self.table = KeyTable(node)
        self._now = self.table.now

    async def begin(self, request: ServerRequest, caller: Caller, estimate: Estimate) -> KeyRequest:
        """Admit a caller's request, maybe after a wait, and count it.

        Raises ClientGone.

        Returns:
            The request, to be closed when it is answered.

        Raises:
            LimitExceeded: the key has used up a limit.
            RequestRejected: the key has a limit of 0 (403).
        """
        started = KeyRequest(self, caller.key_id, estimate)
        if (limits := caller.limits) is NO_LIMITS or limits == NO_LIMITS:
            self._metrics.count_key_request(caller.key_id, "admitted")
            return started
        key = self.table.key(caller)
        if key.has_zero:
            raise RequestRejected(403, "limit_is_zero", zero_message(_zero_of(limits)))
        prompt, answer = estimate.counted(limits.tokens_per_minute)
        decision = self._decide(key, prompt + answer)
        if isinstance(decision, Wait):
            decision = await self._hold(key, prompt + answer, request, decision.refusal)
        at = self._now()
        if isinstance(decision, Refused):
            request.add_headers(limit_headers(key.usage, duration(key.usage.reset_after_s(at))))
            self._metrics.count_key_request(caller.key_id, "refused-" + decision.limit)
            after_s, words = decision.retry_after_s, refusal_message(decision)
            raise LimitExceeded(decision.limit.value, words, after_s or 1.0, is_final=after_s is None)
        started.key, started.use = key, key.usage.admit(at, prompt, answer)
        key.open.add(started)
        request.add_headers(limit_headers(key.usage))
        self._metrics.count_key_request(caller.key_id, "admitted")
        return started

    def _decide(self, key: Key, cost: int) -> Decision:
        """Decide on a request that has just arrived: not before those of its key that wait."""
        at = self._now()
        self.table.reports_soon(key, is_urgent=key.usage.demand(at, cost))
        decision = key.usage.decide(at, cost, self.table.fleet())
        if key.held and isinstance(decision, Admitted):
            return key.usage.wait_in_line(at, cost)
        return decision

    async def _hold(self, key: Key, cost: int, request: ServerRequest, refusal: Refused) -> Admitted | Refused:
        """Wait until the request has its share.

        Returns:
            The decision; the refusal where that takes too long.

        Raises:
            ClientGone: the client left meanwhile.
        """
        usage, begun_at = key.usage, self._now()
        if not usage.may_hold(begun_at, key.held, cost):
            return refusal
        give_up_at = begun_at + hold_s(self.table.fleet().settle_s)
        key.held += 1
        try:
            while self._now() < give_up_at:
                await asyncio.sleep(_POLL_S)
                if request.is_gone:
                    raise ClientGone
                decision = usage.decide(self._now(), cost, self.table.fleet())
                if not isinstance(decision, Wait):
                    return decision
        finally:
            key.held -= 1
        return refusal

    def resume(self, caller: Caller) -> KeyRequest:
        """Count a stream that its client resumes here: it began earlier, and is never refused."""
        resumed = KeyRequest(self, caller.key_id, None)
        if caller.limits != NO_LIMITS:
            resumed.key = key = self.table.key(caller)
            resumed.use = key.usage.resume(self._now())
            key.open.add(resumed)
            self.table.reports_soon(key, is_urgent=False)
        return resumed

    def on_closed(self, request: KeyRequest, generated: int, prompt: int | None) -> None:
        """Count an answered request. generated: tokens of the answer; prompt: of the prompt, None where unknown."""
        estimate, key, use = request.estimate, request.key, request.use
        counted = generated - request.first_token
        if estimate is not None:  # else another node counted the prompt, and a turn there paid for it
            counted += estimate.prompt if prompt is None else prompt
            self._turns.used(request.key_id, max(0, counted), request.paid)
        self._metrics.count_key_tokens(request.key_id, max(0, counted))
        if key is not None and use is not None:
            key.usage.close(self._now(), use, generated, prompt)
            key.open.discard(request)

    def on_undone(self, request: KeyRequest) -> None:
        """Return a request's counts, and what its key has paid."""
        self._turns.give_back(request.key_id, request.paid)
        if request.key is not None and request.use is not None:
            request.key.usage.undo(self._now(), request.use)
            request.key.open.discard(request)


def _zero_of(limits: KeyLimits) -> Limit:
    """Return which limit is 0."""
    of = {
        Limit.REQUESTS: limits.requests_per_minute,
        Limit.TOKENS: limits.tokens_per_minute,
        Limit.STREAMS: limits.streams,
    }
    return next(limit for limit, allowed in of.items() if allowed is not None and allowed <= 0)
