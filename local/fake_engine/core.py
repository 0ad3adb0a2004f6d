"""Emulates the engine core: its pace, its counters, and a core that is slow, stuck or short of blocks.

While it runs, `POST /standin/core` (with `--faults`) changes the fields that it names, and GET returns them:

    {"wedged": true}                no token any more, counters and gauges frozen; /health stays 200, requests are
                                    accepted. false: it continues where it was
    {"seconds_per_token": 5.0}      slow
    {"step_s": 8.0}                 one step of that length (a neighbour's long prefill), then as before
    {"preempt": {"seconds": 15, "share": 0.5}}
                                    that share of the active streams loses its blocks and waits for so long; the
                                    others continue

Rules kept from vLLM 0.32 (v1/core/sched/scheduler.py, v1/metrics/loggers.py): a preempted request counts as waiting;
all figures here are the core's own, so that none of them moves while it does no step.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from local.fake_engine.answers import BadRequest

_SHORT_WAIT_S = 0.1
"""Shorter waits are not interrupted; longer ones end early if the request does."""


@dataclass(frozen=True)
class CoreStats:
    """The core's metrics, as /metrics has them."""

    running: int
    waiting: int
    preemptions: int
    generated: int
    prompted: int


class EngineCore:
    """The scheduler. max_num_seqs: requests that are generated at once."""

    def __init__(self, seconds_per_token: float, max_num_seqs: int) -> None:
        self.seconds_per_token = seconds_per_token
        self._max_num_seqs = max_num_seqs
        self._request_numbers = itertools.count(1)
        self._blocked_until: dict[int, float] = {}  # number of a request -> when it has blocks again, monotonic seconds
        self._running = asyncio.Event()
        self._running.set()
        self._step_until = 0.0
        self._preemptions = self._generated = self._prompted = 0
        self._frozen_stats: CoreStats | None = None

    def add_request(self, prompt_tokens: int) -> int:
        """Add a request; return its number."""
        number = next(self._request_numbers)
        self._blocked_until[number] = 0.0
        if self._running.is_set():
            self._prompted += prompt_tokens
        return number

    def finish_request(self, number: int) -> None:
        """Remove a request, complete or not; unknown numbers are ignored."""
        self._blocked_until.pop(number, None)

    async def step(self, number: int, delay_s: float, ends: Iterable[asyncio.Future[Any]], tokens: int = 1) -> None:
        """Wait until a request has its next tokens, or one of `ends` is done.

        Args:
            number: of the request.
            delay_s: seconds until the tokens, of a core that is well.
            ends: end the wait early: the client is gone, the process ends.
            tokens: how many these are, for the counter.
        """
        if delay_s > _SHORT_WAIT_S:
            await asyncio.wait(ends, timeout=delay_s, return_when=asyncio.FIRST_COMPLETED)
        else:
            await asyncio.sleep(max(0.0, delay_s))
        while (wait_s := self._blocked_for_s(number)) > 0 and not any(end.done() for end in ends):
            await asyncio.wait(ends, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
        if not self._running.is_set():
            runs = asyncio.ensure_future(self._running.wait())
            await asyncio.wait({runs, *ends}, return_when=asyncio.FIRST_COMPLETED)
            runs.cancel()
        if self._running.is_set():
            self._generated += tokens

    def _blocked_for_s(self, number: int) -> float:
        return max(self._step_until, self._blocked_until.get(number, 0.0)) - time.monotonic()

    def apply(self, wanted: object) -> None:
        """Change the core. Raises BadRequest."""
        if not isinstance(wanted, dict) or wanted.keys() - {"wedged", "seconds_per_token", "step_s", "preempt"}:
            raise BadRequest(f"A core is wedged, has seconds_per_token, step_s, preempt; this is {wanted!r}.")
        if "seconds_per_token" in wanted:
            self.seconds_per_token = _seconds(wanted["seconds_per_token"])
        if "step_s" in wanted:
            self._step_until = time.monotonic() + _seconds(wanted["step_s"])
        if "preempt" in wanted:
            self._preempt(wanted["preempt"])
        if "wedged" in wanted:
            self._wedge(bool(wanted["wedged"]))

    def _preempt(self, wanted: object) -> None:
        if not isinstance(wanted, dict):
            raise BadRequest("preempt has seconds and a share.")
        until = time.monotonic() + _seconds(wanted.get("seconds", 15))
        share = min(1.0, _seconds(wanted.get("share", 0.5)))
        # The youngest first, as the scheduler preempts.
        for number in sorted(self._blocked_until, reverse=True)[: round(share * len(self._blocked_until))]:
            self._blocked_until[number] = until
            self._preemptions += 1

    def _wedge(self, wedged: bool) -> None:
        self._frozen_stats = self.stats() if wedged else None
        if wedged:
            self._running.clear()
        else:
            self._running.set()

    def to_json(self) -> dict[str, object]:
        """Return the fields that GET /standin/core has."""
        return {"wedged": not self._running.is_set(), "seconds_per_token": self.seconds_per_token}

    def stats(self) -> CoreStats:
        """Return the metrics; while the core is stuck, those from when it got stuck."""
        if self._frozen_stats is not None:
            return self._frozen_stats
        now = time.monotonic()
        preempted = sum(1 for until in self._blocked_until.values() if until > now)
        running = min(len(self._blocked_until) - preempted, self._max_num_seqs)
        waiting = len(self._blocked_until) - running
        return CoreStats(running, waiting, self._preemptions, self._generated, self._prompted)


def _seconds(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
        raise BadRequest(f"{value!r} is no number, 0 or more.")
    return float(value)
