"""What vLLM's /metrics says of its load: three gauges out of hundreds of lines (Prometheus' text format)."""

from __future__ import annotations

from typing import NamedTuple


class EngineFigures(NamedTuple):
    """running, waiting: requests; kv_use: of the KV cache, 0 to 1."""

    running: int
    waiting: int
    kv_use: float


_RUNNING = b"vllm:num_requests_running"
_WAITING = b"vllm:num_requests_waiting"
_KV_USE = b"vllm:kv_cache_usage_perc"


def read_figures(text: bytes) -> EngineFigures | None:
    """Of all engines together where there are several, the fullest KV cache; None where none is told."""
    running = _values(text, _RUNNING)
    waiting = _values(text, _WAITING)
    kv_use = _values(text, _KV_USE)
    if not running or not waiting or not kv_use:
        return None
    return EngineFigures(round(sum(running)), round(sum(waiting)), min(1.0, max(0.0, *kv_use)))


def _values(text: bytes, name: bytes) -> list[float]:
    """The values of a metric's lines. A name that only begins alike is another metric."""
    values = []
    at = text.find(name)
    while at >= 0:
        line = text[at : text.find(b"\n", at) if text.find(b"\n", at) >= 0 else len(text)]
        begins = at == 0 or text[at - 1 : at] == b"\n"
        if begins and line[len(name) : len(name) + 1] in (b"{", b" "):
            try:
                values.append(float(line.rsplit(b" ", 1)[1]))
            except ValueError:
                return []
        at = text.find(name, at + len(line))
    return values
