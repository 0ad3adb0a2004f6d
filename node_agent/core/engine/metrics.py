"""What vLLM's /metrics says of its load and of its work: six figures out of hundreds of lines (Prometheus' format).

All of them come from the engine's core: the API server alone moves none. So a figure that moved is proof that the core
worked since.
"""

from __future__ import annotations

import math
from typing import NamedTuple


class EngineMetrics(NamedTuple):
    """running, waiting: requests; kv_use: of the KV cache, 0 to 1.

    preemptions, generated, prompted: counters of preempted requests, of tokens made, and of prompts' tokens read, since
    the engine's start; None where the engine does not have them.
    """

    running: int
    waiting: int
    kv_use: float
    preemptions: float | None = None
    generated_tokens: float | None = None
    prompt_tokens: float | None = None

    @property
    def can_explain_silence(self) -> bool:
        """Whether these figures can say why a stream is silent: then they can also say that nothing explains it."""
        return self.preemptions is not None

    @property
    def work(self) -> tuple[float | None, ...]:
        """What only a step of the core moves."""
        return (self.preemptions, self.generated_tokens, self.prompt_tokens, self.kv_use)


_RUNNING = b"vllm:num_requests_running"
_WAITING = b"vllm:num_requests_waiting"
_KV_USE = b"vllm:kv_cache_usage_perc"
_PREEMPTIONS = b"vllm:num_preemptions_total"
_GENERATED = b"vllm:generation_tokens_total"
_PROMPTED = b"vllm:prompt_tokens_total"
_MAX_REQUESTS = 1e9
"""More than any engine has: a larger number is none."""


def parse_metrics(text: bytes) -> EngineMetrics | None:
    """Of all engines together where there are several, the fullest KV cache.

    None where running, waiting or the cache's use is missing or is no number that it could be.
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
    """The values of a metric's lines; [] where one of them is no finite number.

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
