"""The paths of vLLM's API that an agent requests again and again, and how to keep them out of the engine's log.

vLLM's server writes a line for each request. Lines about the agent's own would be most of a node's log: nearly a GB a
month, which CloudWatch is paid for. Requests of clients stay in the log, and with them the watchdog's probes of an idle
engine, whose path is one of clients.
"""

from __future__ import annotations

HEALTH = "/health"
METRICS = "/metrics"
MODELS = "/v1/models"

POLLED_PATHS = (HEALTH, METRICS, MODELS)
"""A test of a whole agent compares them with what it requests."""


def access_log_arguments() -> tuple[str, ...]:
    """Return the arguments of `vllm serve` that leave these requests out of its log."""
    return "--disable-access-log-for-endpoints", ",".join(POLLED_PATHS)
