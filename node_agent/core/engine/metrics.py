"""Parse vLLM's /metrics for its load and its work: six metrics out of hundreds of lines (Prometheus' format).

All of them come from the engine's core: the API server alone changes none. So a changed metric proves that the core
worked since.
"""

from __future__ import annotations

import math
from typing import NamedTuple


class EngineMetrics(NamedTuple):
    """The metrics of one scrape.

    running, waiting: requests; kv_use: of the KV cache, 0 to 1; preemptions, generated_tokens, prompt_tokens: counters
    since the engine's start, None where the engine does not have them.
    """

    running: int
    waiting: int
    kv_use: float
    preemptions: float | None = None
    generated_tokens: float | None = None
    prompt_tokens: float | None = None

    @property
    def can_explain_silence(self) -> bool:
        """True where these metrics can explain a stream's silence: then they can also show that nothing explains it."""
        return self.preemptions is not None

    @property
    def work(self) -> tuple[float | None, ...]:
        """The metrics that only a step of the core changes."""
        return (self.preemptions, self.generated_tokens, self.prompt_tokens, self.kv_use)


_RUNNING = b"vllm:num_requests_running"
_WAITING = b"vllm:num_requests_waiting"
_KV_USE = b"vllm:kv_cache_usage_perc"
_PREEMPTIONS = b"vllm:num_preemptions_total"
_GENERATED = b"vllm:generation_tokens_total"
_PROMPTED = b"vllm:prompt_tokens_total"
_MAX_REQUESTS = 1e9
"""More than any engine has: a larger number is invalid."""


def parse_metrics(text: bytes) -> EngineMetrics | None:
    """Return the metrics of a scrape; None where running, waiting or the cache's use is missing or invalid.

    Of several engines they are the sums, and the use of the fullest KV cache.
    """
    running = _values(text, _RUNNING)
    waiting = _values(text, _WAITING)
    kv_use = _values(text, _KV_USE)
    if not running or not waiting or not kv_use:
        return None
    counters = (_total(text, _PREEMPTIONS), _total(text, _GENERATED), _total(text, _PROMPTED))
    return EngineMetrics(_count(running), _count(waiting), min(1.0, max(0.0, *kv_use)), *counters)


def _count(values: list[float]) -> int:
    return round(min(_MAX_REQUESTS, max(0.0, sum(values))))


def _total(text: bytes, name: bytes) -> float | None:
    values = _values(text, name)
    return sum(values) if values else None


def _values(text: bytes, name: bytes) -> list[float]:
    """Return the values of a metric's lines; [] where one of them is no finite number.

    A name that only begins alike is another metric.
    """
    values = []
    at = text.find(name)
    while at >= 0:
        end = text.find(b"\n", at)
        line = text[at : end if end >= 0 else len(text)]
        begins = at == 0 or text[at - 1 : at] == b"\n"
        if begins and line[len(name) : len(name) + 1] in (b"{", b" "):
            try:
                value = float(line.rsplit(b" ", 1)[1])
            except (ValueError, IndexError):
                return []
            if not math.isfinite(value):
                return []
            values.append(value)
        at = text.find(name, at + len(line))
    return values
