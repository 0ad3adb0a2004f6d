"""vLLM's gauges among its metrics."""

from __future__ import annotations

from node_agent.core.engine_figures import EngineFigures, read_figures

TEXT = b"""# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 7.0
vllm:num_requests_waiting{engine="0",model_name="m"} 2.0
vllm:num_requests_waiting_by_reason{engine="0",model_name="m",reason="capacity"} 99.0
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.25
"""


def test_what_is_looked_for_is_found_and_what_only_begins_alike_is_not() -> None:
    assert read_figures(TEXT) == EngineFigures(7, 2, 0.25)
    assert read_figures(TEXT.rstrip(b"\n")) == EngineFigures(7, 2, 0.25)


def test_several_engines_are_one_node() -> None:
    two = TEXT + TEXT.replace(b'engine="0"', b'engine="1"').replace(b"0.25", b"1.5")
    assert read_figures(two) == EngineFigures(14, 4, 1.0)


def test_nothing_is_made_up() -> None:
    assert read_figures(b"") is None
    assert read_figures(TEXT.replace(b" 2.0", b" two")) is None
    assert read_figures(TEXT.replace(b"kv_cache", b"kv")) is None
