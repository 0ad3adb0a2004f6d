"""OpenTelemetry's histograms for generative AI: what an answered request adds."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry

from node_agent.runtime.common.generation_metrics import OPERATION, GenerationMetrics


def observed(
    path: str, first_output_at: float | None, tokens: int | None, operation: str
) -> dict[str, tuple[float | None, float | None]]:
    """Return the count and the sum of each histogram after a request from 10 s to 14 s."""
    registry = CollectorRegistry()
    GenerationMetrics(registry).observe(path, 14.0, 10.0, first_output_at, tokens)

    def value(name: str) -> float | None:
        return registry.get_sample_value(f"gen_ai_server_{name}", {OPERATION: operation})

    names = ("request_duration", "time_to_first_token", "time_per_output_token")
    return {name: (value(f"{name}_seconds_count"), value(f"{name}_seconds_sum")) for name in names}


def test_a_stream_has_a_first_token_and_a_time_for_each_further_one() -> None:
    assert observed("/v1/chat/completions", 11.0, 31, "chat") == {
        "request_duration": (1, 4.0),
        "time_to_first_token": (1, 1.0),
        "time_per_output_token": (1, pytest.approx(0.1)),
    }


@pytest.mark.parametrize(("first_output_at", "tokens"), [(None, None), (None, 30), (11.0, 1), (11.0, None)])
def test_what_is_not_known_is_not_observed(first_output_at: float | None, tokens: int | None) -> None:
    assert observed("/v1/completions", first_output_at, tokens, "text_completion") == {
        "request_duration": (1, 4.0),
        "time_to_first_token": (0, 0) if first_output_at is None else (1, 1.0),
        "time_per_output_token": (0, 0),
    }
